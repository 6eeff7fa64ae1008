"""The drift of other methods on the same hidden states, beside the one that was chosen."""

from collections.abc import Callable, Sequence

import torch

from headroom.contract.compress import Method
from service.compression.drift.drift_points import DriftPoint, drift_curve
from service.compression.drift.sweep import prepare, sweep
from service.compression.heads.basis import build_basis
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead
from service.compression.states.statistics import Statistics
from service.models.column_counts import kept_columns

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)


def compared_sizes(hidden_size: int, multiple: int) -> dict[int, float]:
    """Kept size -> ratio; a head too small for a ratio leaves it out."""
    sizes = {kept_columns(hidden_size, ratio, multiple): ratio for ratio in RATIOS}
    return {size: ratio for size, ratio in sizes.items() if size < hidden_size}


def compare_methods(
    evaluation: HiddenStates,
    head: LmHead,
    statistics: Statistics,
    methods: Sequence[Method],
    ratio_of: dict[int, float],
    seed: int,
    *,
    repair: bool,
    device: torch.device,
    progress: Callable[[float], None],
) -> dict[str, list[DriftPoint]]:
    """Method -> points at the kept sizes of `ratio_of`. Cost: one sweep of these sizes for each method."""
    found: dict[str, list[DriftPoint]] = {}

    def tell(done: float) -> None:
        progress((len(found) + done) / len(methods))

    for method in methods:
        basis = build_basis(method, head.weight, statistics, seed)
        prepared = prepare(head, basis, statistics.mean_hidden, repair=repair, device=device)
        swept = sweep(evaluation, prepared, sorted(ratio_of), progress=tell)
        found[method.value] = drift_curve(swept, ratio_of, seed)
    return found
