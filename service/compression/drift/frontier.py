"""Ratio and precision together: which head gives the least drift at the bytes asked, or the fewest bytes at the drift.

Heads in the model's own dtype are on the curve already. A rounded head has to be measured by itself, on the cached
hidden states; few are, since rounding hardly ever lowers drift:

- at a number of bytes, only the widest head of each precision can be best, and only while the same columns unrounded
  drift less than the best head known;
- at a drift, the narrowest head of a precision is sought by halving between the narrowest that passes unrounded and
  the widest that would still be smaller than the best head known.

The plain rounded heads, with all columns, are always measured: they are what anyone would try first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from headroom.contract.compress import Budget, HeadDtype, RoundedDtype
from service.compression.drift.candidate import Candidate
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.gate import Choice
from service.models.head_bytes import HeadShape

ROUNDED: tuple[RoundedDtype, ...] = get_args(RoundedDtype)
HALVINGS = 4  # a sixteenth of the sizes in question is near enough: each costs a rounding and a measurement

Measure = Callable[[int, RoundedDtype], list[DriftPoint]]  # kept columns, precision -> its point in every set


@dataclass
class Frontier:
    """Every head that was considered, and the order in which they serve the budget."""

    choice: Choice
    shape: HeadShape
    before: int  # bytes of the head as it was
    budget: Budget
    measure: Measure
    found: list[Candidate] = field(default_factory=list)
    measured: int = 0  # rounded heads
    left_out: int = 0  # rounded heads that could not be best

    def search(self) -> None:
        """Fill `found`. The curve must hold the size of all columns and those of `sizes_for`."""
        full = self.shape.hidden_size
        for point in self.choice.curve:
            if point.kept_columns < full:
                self._add("source", [one.at(point.kept_columns) for one in self.choice.sets])
        for head_dtype in ROUNDED:
            self._measured(full, head_dtype)
        lowest = sorted(ROUNDED, key=self._lowest_bytes) if self.budget.drift is not None else reversed(ROUNDED)
        for head_dtype in lowest:
            self._search_drift(head_dtype) if self.budget.drift is not None else self._search_bytes(head_dtype)

    @property
    def serving(self) -> list[Candidate]:
        """Those that meet the budget and pass every drift budget, best first."""
        found = [one for one in self.found if one.passes and self._inside(one)]
        return sorted(found, key=self._order)

    @property
    def nearest(self) -> Candidate:
        """What comes closest where nothing serves: the smallest that passes, or the one that drifts least."""
        passing = [one for one in self.found if one.passes]
        if passing and self.budget.head_bytes is not None:
            return min(passing, key=lambda one: (one.share, one.worst))
        inside = [one for one in self.found if self._inside(one)]
        return min(inside or self.found, key=lambda one: (one.worst, one.share))

    def as_dict(self, chosen: Candidate | None) -> dict[str, Any]:
        """As docs/report.md names it."""
        ordered = sorted(self.found, key=lambda one: (one.share, one.worst))
        return {
            "budget": self.budget.model_dump(),
            "swept": sum(one.head_dtype == "source" for one in ordered),
            "measured": self.measured,
            "left_out": self.left_out,
            "points": [self._described(one, chosen) for one in ordered],
            "nearest": None if chosen else self._described(self.nearest, None),
        }

    def _described(self, one: Candidate, chosen: Candidate | None) -> dict[str, Any]:
        better = (other for other in self.found if other.share <= one.share and other is not one)
        return {
            "head_dtype": one.head_dtype,
            "head_bytes": one.nbytes,
            "share": one.share,
            "passes": one.passes,
            "serves": one.passes and self._inside(one),
            "efficient": not any(other.worst <= one.worst for other in better),
            "chosen": one is chosen,
        } | one.points[0].as_dict()

    def _add(self, head_dtype: HeadDtype, points: list[DriftPoint]) -> Candidate:
        kept = points[0].kept_columns
        nbytes = self.shape.nbytes(kept, head_dtype)
        unrounded = [one.at(kept) for one in self.choice.sets]
        passes = self.choice.allows(points)
        candidate = Candidate(head_dtype, unrounded, points, nbytes, nbytes / self.before, passes)
        self.found.append(candidate)
        return candidate

    def _measured(self, kept: int, head_dtype: RoundedDtype) -> Candidate:
        known = [one for one in self.found if one.head_dtype == head_dtype and one.kept == kept]
        if known:
            return known[0]
        self.measured += 1
        return self._add(head_dtype, self.measure(kept, head_dtype))

    def _search_bytes(self, head_dtype: RoundedDtype) -> None:
        sizes = [kept for kept in self._sizes() if self._share(kept, head_dtype) <= (self.budget.head_bytes or 0)]
        if not sizes:
            return
        best = min((one.worst for one in self.found if self._inside(one)), default=float("inf"))
        bound = max(one.at(sizes[-1]).perplexity_drift_high for one in self.choice.sets)
        if bound < best:
            self._measured(sizes[-1], head_dtype)
        else:
            self.left_out += 1

    def _search_drift(self, head_dtype: RoundedDtype) -> None:
        best = min((one.share for one in self.found if one.passes), default=float("inf"))
        sizes = [kept for kept in self._may_pass() if self._share(kept, head_dtype) < best]
        if not sizes:
            self.left_out += 1
            return
        if self._measured(sizes[0], head_dtype).passes or not self._measured(sizes[-1], head_dtype).passes:
            return
        fails, passes = 0, len(sizes) - 1
        for _ in range(HALVINGS):
            if passes - fails < 2:
                break
            middle = (fails + passes) // 2
            if self._measured(sizes[middle], head_dtype).passes:
                passes = middle
            else:
                fails = middle

    def _lowest_bytes(self, head_dtype: RoundedDtype) -> float:
        """Of the narrowest head that can pass in this precision."""
        return min((self._share(kept, head_dtype) for kept in self._may_pass()), default=float("inf"))

    def _may_pass(self) -> list[int]:
        return [kept for kept in self._sizes() if all(one.passes(kept) for one in self.choice.sets)]

    def _sizes(self) -> list[int]:
        return sorted(point.kept_columns for point in self.choice.curve)

    def _share(self, kept: int, head_dtype: HeadDtype) -> float:
        return self.shape.nbytes(kept, head_dtype) / self.before

    def _inside(self, one: Candidate) -> bool:
        """Whether it meets the budget of bytes, or at least saves some."""
        return one.share <= self.budget.head_bytes if self.budget.head_bytes is not None else one.share < 1

    def _order(self, one: Candidate) -> tuple[float, float]:
        return (one.share, one.worst) if self.budget.drift is not None else (one.worst, one.share)


def sizes_for(budget: Budget, shape: HeadShape, before: int, multiple: int) -> list[int]:
    """Kept sizes that the sweep must hold for this budget: all columns, and the widest of each precision that fits."""
    sizes = {shape.hidden_size}
    if budget.head_bytes is not None:
        steps = range(multiple, shape.hidden_size + 1, multiple)
        every: tuple[HeadDtype, ...] = ("source", *ROUNDED)
        for head_dtype in every:
            fitting = [kept for kept in steps if shape.nbytes(kept, head_dtype) <= budget.head_bytes * before]
            sizes |= set(fitting[-1:])
    return sorted(sizes)
