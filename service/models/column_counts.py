"""How many columns stay for a pruning ratio: the rounding rule, in one place for the estimate and the engine."""

import math

from service.foundation.errors import RatioTooSmall


def kept_columns(hidden_size: int, ratio: float, multiple: int) -> int:
    """k = hidden - floor(hidden * ratio), rounded UP to a multiple, so that the ratio is never exceeded."""
    removed = math.floor(round(hidden_size * ratio, 6))  # plain int() makes 0.29 of 100 columns 28
    kept = max(hidden_size - removed, 1)
    return min(hidden_size, math.ceil(kept / multiple) * multiple)


def checked_kept_columns(hidden_size: int, ratio: float, multiple: int) -> int:
    """k as `kept_columns` has it; RatioTooSmall when rounding leaves nothing to remove of a ratio above 0."""
    if ratio == 0:
        return hidden_size
    kept = kept_columns(hidden_size, ratio, multiple)
    if kept == hidden_size:
        raise RatioTooSmall(
            f"a ratio of {ratio} removes none of {hidden_size} columns when {multiple} of them go at a time: "
            f"ask for at least {multiple / hidden_size:.4f}, or set options.column_multiple lower"
        )
    return kept
