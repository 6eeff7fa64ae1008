"""One decode step of the head: pruned at 0.5 against full, as users run it (SlicedHead against Linear).

decode_over_full: time over time, a figure for each shape and batch. A general basis, so its product is counted too.
int8_full and int8_half: QuantizedHead of headroom/loading with all and with half the columns; int4 likewise.
"""

from functools import partial
from typing import Any

import torch

from bench.timing import ratio
from headroom.loading.head import SlicedHead
from headroom.loading.quantized_head import PackedHead, QuantizedHead

SHAPES = ((50257, 768), (128256, 2048))
BATCHES = (1, 8)
DTYPES = (torch.float32, torch.bfloat16)


def run() -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures: dict[str, float] = {}
    for vocab_size, hidden_size in SHAPES:
        for dtype in DTYPES:
            full = torch.nn.Linear(hidden_size, vocab_size, bias=False, device=device, dtype=dtype)
            pruned = SlicedHead(hidden_size, vocab_size, hidden_size // 2, permutation=False, bias=True)
            heads: dict[str, torch.nn.Module] = {
                "": pruned.to(device, dtype),
            }
            for bits, rounded in (("int8", _int8), ("int4", _int4)):
                for part, kept in (("full", hidden_size), ("half", hidden_size // 2)):
                    heads[f"{bits}_{part}_"] = rounded(hidden_size, vocab_size, kept).to(device, dtype)
            for parameter in (parameter for head in heads.values() for parameter in head.parameters()):
                torch.nn.init.normal_(parameter, std=0.02)
            for batch in BATCHES:
                h = torch.randn(batch, hidden_size, device=device, dtype=dtype)
                for label, head in heads.items():
                    with torch.inference_mode():
                        found, _, _ = ratio(partial(head, h), partial(full, h), rounds=31)
                    name = f"{label}V{vocab_size}_d{hidden_size}_batch{batch}_{str(dtype).removeprefix('torch.')}"
                    figures[name] = round(found, 3)
    return {"device": str(device), "threads": torch.get_num_threads(), "decode_over_full": figures}


def _int8(hidden_size: int, vocab_size: int, kept: int) -> QuantizedHead:
    head = QuantizedHead(hidden_size, vocab_size, kept, bias=True)
    head.quantized.random_(-127, 128)
    head.scale.copy_(torch.full((vocab_size,), 1e-4).view(torch.int32))
    return head


def _int4(hidden_size: int, vocab_size: int, kept: int) -> PackedHead:
    head = PackedHead(hidden_size, vocab_size, kept, bias=True)
    head.packed.random_(0, 256)
    head.group_scale.copy_(torch.full(head.group_scale.shape, 1e-3, dtype=torch.bfloat16).view(torch.int16))
    return head
