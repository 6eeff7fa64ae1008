"""Drift by labelled groups of texts (languages, domains, groups of people named in them), and how far they lie apart.

Every window belongs to one group. Means over all text hide a group that loses more than the others.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from headroom.contract.report.drift_parts import GroupDrift, GroupGap
from service.compression.drift.drift_points import WINDOWS_FOR_INTERVAL
from service.compression.drift.token_drift import TokenDrift, figures
from service.compression.numerics.bootstrap import CONFIDENCE, resampled_means


@dataclass(frozen=True)
class Gap:
    """Distance of the groups whose perplexity drifts the most and the least. 0.01: one percent of perplexity more."""

    most: str
    least: str
    gap: float
    low: float  # 95 % interval of this difference, windows drawn inside each group
    high: float  # the largest upper end of any two groups: no pair is further apart

    @property
    def told(self) -> GroupGap:
        """The gap as the report has it."""
        return GroupGap(**asdict(self))


@dataclass(frozen=True, eq=False)
class DriftOfGroups:
    """Relative perplexity drift of every group at every size."""

    names: list[str]
    kept: list[int]
    drift: Tensor  # (groups, sizes) float64
    resampled: Tensor  # (groups, resamples, sizes) float64

    def gap(self, kept: int) -> Gap | None:
        """The widest gap at a size; None where there are not two groups."""
        if len(self.names) < 2:
            return None
        index = self.kept.index(kept)
        drift, resampled = self.drift[:, index], self.resampled[:, :, index]
        most, least = int(drift.argmax()), int(drift.argmin())
        tail = (1 - CONFIDENCE) / 2
        apart = [one - other for one in resampled for other in resampled]
        high = max(float(torch.quantile(each, 1 - tail)) for each in apart)
        low = float(torch.quantile(resampled[most] - resampled[least], tail))
        return Gap(self.names[most], self.names[least], float(drift[most] - drift[least]), low, high)


def group_drift(likelihood: Tensor, lengths: Tensor, groups: list[str], kept: list[int], seed: int) -> DriftOfGroups:
    """Drift of every group at every size.

    likelihood: (windows, sizes) float64, the last column the full head; lengths, groups: of each window.
    """
    names = sorted(set(groups))
    paired = likelihood - likelihood[:, -1:]
    drift, resampled = [], []
    for number, name in enumerate(names):
        rows = torch.tensor([group == name for group in groups])
        drift.append(torch.expm1(paired[rows].sum(0) / lengths[rows].sum()))
        # A seed of its own: groups of as many windows would else draw the same ones, and differ too little.
        resampled.append(torch.expm1(resampled_means(paired[rows], lengths[rows], seed + number)))
    return DriftOfGroups(names, kept, torch.stack(drift), torch.stack(resampled))


def drift_by_group(drift: TokenDrift, groups: list[str], seed: int) -> tuple[GroupDrift, ...]:
    """Drift of the positions of each group, by name. groups: of each window."""
    found = []
    for name in sorted(set(groups)):
        windows = torch.tensor([group == name for group in groups])
        here = figures(drift, windows[drift.window], seed)
        found.append(GroupDrift(**dict(here), group=name, windows=int(windows.sum())))
    return tuple(found)


def small_groups(groups: list[str] | None) -> list[str]:
    """A warning that names the groups of too few windows for an interval, if there are any."""
    if groups is None:
        return []
    if len(set(groups)) < 2:
        return [f"all evaluation windows are of one group ({groups[0]}): there is no gap to measure"]
    small = [name for name in sorted(set(groups)) if groups.count(name) < WINDOWS_FOR_INTERVAL]
    if not small:
        return []
    return [
        f"few windows in some groups ({', '.join(small)}): an interval says little below {WINDOWS_FOR_INTERVAL}; "
        "send more of such text, or set options.window lower"
    ]
