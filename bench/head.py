"""One decode step of the head: pruned at 0.5 against full, as users run it (headroom.head.SlicedHead against Linear).

decode_over_full: time over time, a figure for each shape and batch. A general basis, so its product is counted too.
"""

from functools import partial
from typing import Any

import torch

from bench.timing import ratio
from headroom.head import SlicedHead

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
            pruned = pruned.to(device, dtype)
            for parameter in pruned.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
            for batch in BATCHES:
                h = torch.randn(batch, hidden_size, device=device, dtype=dtype)
                with torch.inference_mode():
                    found, _, _ = ratio(partial(pruned, h), partial(full, h), rounds=31)
                name = f"V{vocab_size}_d{hidden_size}_batch{batch}_{str(dtype).removeprefix('torch.')}"
                figures[name] = round(found, 3)
    return {"device": str(device), "threads": torch.get_num_threads(), "decode_over_full": figures}
