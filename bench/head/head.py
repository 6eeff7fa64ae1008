"""One decode step of the head, as users run it, against the full head: every stored form, batches of 1 to 64.

decode_over_full: time over time; a general basis, so its product is counted too. half: half of the columns. planes: 4
bits, with as many rows rescored. ways: what each head measured to be quickest (on a CPU; headroom/loading/products).
A figure above LIMIT is taken again, twice at most, and the least counts: another load on the machine only adds.
What stays above it is listed in `failed`, and the command ends with an error.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from bench.timing import ratio
from headroom.loading.head import SlicedHead
from headroom.loading.planes_head import PlanesHead
from headroom.loading.quantized_head import PackedHead, QuantizedHead, RoundedHead

SHAPES = {"cpu": ((49152, 576), (50257, 768), (262144, 640)), "cuda": ((50257, 768), (128256, 2048))}
BATCHES = (1, 8, 64)
DTYPES = (torch.float32, torch.bfloat16)
RESCORED = (256, 1024)
LIMIT, TRIES = 1.05, 3
ROUNDS, SECONDS = 31, 0.3  # of a figure: the fewer of both, at least MIN_ROUNDS
MIN_ROUNDS = 7


def run() -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures: dict[str, float] = {}
    ways: dict[str, str] = {}
    for vocab_size, hidden_size in SHAPES[device.type]:
        for dtype in DTYPES:
            full = nn.Linear(hidden_size, vocab_size, bias=False, device=device, dtype=dtype)
            for label, head in _heads(hidden_size, vocab_size):
                head.to(device, dtype)
                for batch in BATCHES:
                    name = f"{label}_V{vocab_size}_d{hidden_size}_batch{batch}_{str(dtype).removeprefix('torch.')}"
                    h = torch.randn(batch, hidden_size, device=device, dtype=dtype)
                    figures[name] = _figure(partial(head, h), partial(full, h))
                    if isinstance(head, (PlanesHead, RoundedHead)) and head.products.ways:
                        ways[name] = head.products.ways[batch, str(dtype).removeprefix("torch.")]
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "decode_over_full": figures,
        "ways": ways,
        "failed": {name: figure for name, figure in figures.items() if figure > LIMIT},
    }


def _figure(head: Callable[[], object], full: Callable[[], object]) -> float:
    with torch.inference_mode():
        head()  # measures, and makes what it keeps
        started = time.perf_counter()
        head()
        full()
        rounds = max(MIN_ROUNDS, min(ROUNDS, int(SECONDS / (time.perf_counter() - started))))
        found = min(figure for figure in _until_low(lambda: ratio(head, full, rounds=rounds)[0]))
    return round(found, 3)


def _until_low(measure: Callable[[], float]) -> Iterator[float]:
    for _ in range(TRIES):
        found = measure()
        yield found
        if found <= LIMIT:
            return


def _heads(hidden_size: int, vocab_size: int) -> Iterator[tuple[str, nn.Module]]:
    """One at a time, of random numbers."""
    sliced = SlicedHead(hidden_size, vocab_size, hidden_size // 2, permutation=False, bias=True)
    yield "sliced_half", _filled(sliced)
    for part, kept in (("full", hidden_size), ("half", hidden_size // 2)):
        int8 = QuantizedHead(hidden_size, vocab_size, kept, bias=True)
        int8.quantized.random_(-127, 128)
        int8.scale.copy_(torch.full((vocab_size,), 1e-4).view(torch.int32))
        yield f"int8_{part}", _filled(int8)
        int4 = PackedHead(hidden_size, vocab_size, kept, bias=True)
        int4.packed.random_(0, 256)
        int4.group_scale.copy_(torch.full(int4.group_scale.shape, 1e-3, dtype=torch.bfloat16).view(torch.int16))
        yield f"int4_{part}", _filled(int4)
    for rescored in RESCORED:
        planes = PlanesHead(hidden_size, vocab_size, hidden_size, 32, bits=4, rescored=rescored, bias=False)
        for codes in (planes.whole, planes.high, planes.low):
            codes.random_(0, 256)
        planes.scales.copy_(torch.full(planes.scales.shape, 1e-4, dtype=torch.bfloat16).view(torch.int16))
        yield f"planes_{rescored}", _filled(planes)


def _filled(head: nn.Module) -> nn.Module:
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.02)
    return head
