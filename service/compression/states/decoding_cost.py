"""What decoding one token costs: the bytes that a head reads, and seconds of two models side by side."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from headroom.contract.report.times import HeadTime
from service.compression.text.reading import CorpusReading, Objective

PROMPT_TOKENS, STEPS, WARM_STEPS = 16, 16, 2
BATCHES = (1, 8)
HEAD_STEPS, FEWEST_STEPS, HEAD_SECONDS = 32, 3, 1.0  # a large head gets fewer steps, so that no batch takes long
# Of a plain, sliced or rounded head, read for every position.
READ = ("weight", "quantized", "scale", "packed", "group_scale", "basis", "bias")


def head_bytes(head: nn.Module) -> int:
    """Bytes of the head that are read for a position, as compress reports them."""
    parts = [getattr(head, name, None) for name in READ]
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))


@torch.inference_mode()
def seconds_of_heads(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], hidden: Tensor
) -> tuple[HeadTime, ...]:
    """Median seconds of both for so many tokens, in turns. hidden: (>= 8, hidden)."""
    found = []
    for batch in BATCHES:
        taken: tuple[list[float], list[float]] = ([], [])
        rows, started = hidden[:batch], time.perf_counter()
        while len(taken[0]) < FEWEST_STEPS + WARM_STEPS or (
            len(taken[0]) < HEAD_STEPS + WARM_STEPS and time.perf_counter() - started < HEAD_SECONDS
        ):
            for head, seconds in zip((one, other), taken, strict=True):
                begun = time.perf_counter()
                float(head(rows)[0, 0])  # waits for a GPU
                seconds.append(time.perf_counter() - begun)
        before, after = (_median(seconds[WARM_STEPS:]) for seconds in taken)
        found.append(HeadTime(batch=batch, before=before, after=after))
    return tuple(found)


@torch.inference_mode()
def seconds_per_token(one: Any, other: Any, ids: Tensor, reading: CorpusReading) -> tuple[float | None, float | None]:
    """Medians at batch 1 with a cache of keys and values, in turns, so that a busy machine slows both. ids: windows.

    None for models that do not decode token by token, or keep no cache.
    """
    if reading.objective is not Objective.CAUSAL:
        return None, None
    prompt = ids[:1, : max(1, min(PROMPT_TOKENS, ids.shape[1] - STEPS - WARM_STEPS))]
    pair = (one, other)
    caches = [model(input_ids=prompt.to(model.device), use_cache=True).get("past_key_values") for model in pair]
    if any(cache is None for cache in caches):
        return None, None
    taken: tuple[list[float], list[float]] = ([], [])
    for step in range(min(STEPS + WARM_STEPS, ids.shape[1] - prompt.shape[1])):
        token = ids[:1, prompt.shape[1] + step][None]
        for model, cache, seconds in zip(pair, caches, taken, strict=True):
            given = token.to(model.device)
            started = time.perf_counter()
            float(model(input_ids=given, past_key_values=cache, use_cache=True).logits[0, -1, 0])  # waits for a GPU
            seconds.append(time.perf_counter() - started)
    return _median(taken[0][WARM_STEPS:]), _median(taken[1][WARM_STEPS:])


def _median(seconds: list[float]) -> float | None:
    return sorted(seconds)[len(seconds) // 2] if seconds else None
