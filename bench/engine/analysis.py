"""Time and memory of a whole encoding analysis of a large head: V = 262,144, d = 2,304 (a Gemma 2 of 2B), made up."""

import resource
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

from service.compression.encoding.principal_components import principal_components
from service.compression.encoding.token_probability import encode
from service.compression.numerics.rank_correlation import spearman

VOCAB, HIDDEN = 262_144, 2_304
ROWS = 8192


def make_head(vocab: int, hidden: int) -> tuple[Tensor, Tensor]:
    """Rows of correlated columns in bfloat16, and a -log alpha that some of them encode, with noise."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(hidden, hidden, generator=generator) * torch.linspace(1, 0.01, hidden) * 0.02
    weight = torch.empty(vocab, hidden, dtype=torch.bfloat16)
    for start in range(0, vocab, ROWS):
        rows = weight[start : start + ROWS]
        rows.copy_(torch.randn(rows.shape, generator=generator) @ mix)
    noise = torch.randn(vocab, generator=generator, dtype=torch.float64)
    return weight, weight[:, :50].double().sum(1) + 0.1 * noise


def run(vocab: int = VOCAB, hidden: int = HIDDEN) -> dict[str, Any]:
    weight, y = make_head(vocab, hidden)
    mean_hidden = torch.ones(hidden, dtype=torch.float64)
    started, cpu_started = perf_counter(), process_time()
    encoding = encode(weight, y, mean_hidden, 0)
    encoded = perf_counter()
    spearman(weight, y)
    ranked = perf_counter()
    components = principal_components(weight, y, encoding)
    ended = perf_counter()
    return {
        "vocab": vocab,
        "hidden": hidden,
        "threads": torch.get_num_threads(),
        "seconds": ended - started,
        "cpu_seconds": process_time() - cpu_started,  # of all threads: what other work on the machine does not change
        "encode_seconds": encoded - started,
        "spearman_seconds": ranked - encoded,
        "components_seconds": ended - ranked,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "r2": encoding.regression.r2,
        "r2_of_components": components.sparsity.curve[-1][1],
    }
