"""Every form of head together: which gives the least KL at the bytes asked, or the fewest bytes read at the drift.

Heads in the model's own dtype are on the curve already, and heads in planes come measured, all settings from one pass.
A rounded head has to be measured by itself, on the cached hidden states; few are, since rounding hardly ever lowers KL:

- at a number of bytes, only the widest head of each precision can be best, and only while the same columns unrounded
  have less KL than the best head known;
- at a drift, the narrowest head of a precision is sought by halving between the narrowest that passes unrounded and
  the widest that would still be smaller than the best head known.

With a budget the rounded heads of all columns are always measured. Without one (`auto`) none is: what passes and reads
least of sliced columns and planes is chosen, of planes with a few more or less rows rescored the one of least KL.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from headroom.contract.compress import Budget, ColumnDtype, RoundedDtype
from headroom.contract.report.frontier import AskedBudget, FrontierOfReport, FrontierPoint
from service.compression.drift.candidate import Candidate
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.gate import Choice
from service.models.head_bytes import HeadShape

ROUNDED: tuple[RoundedDtype, ...] = get_args(RoundedDtype)
COLUMNS: tuple[ColumnDtype, ...] = ("source", *ROUNDED)
FEW_MORE = 1.1  # times the bytes: at 4 bits of a large vocabulary 1,024 rows are 2 to 3 % more than 256
HALVINGS = 4  # a sixteenth of the sizes in question is near enough: each costs a rounding and a measurement

Measure = Callable[[int, RoundedDtype], list[DriftPoint]]  # kept columns, precision -> its point in every set


@dataclass
class Frontier:
    """Every head that was considered, and the order in which they serve the budget."""

    choice: Choice
    shape: HeadShape
    before: int  # bytes of the head as it was
    budget: Budget | None  # None: the fewest bytes inside the drift budgets
    measure: Measure
    planes: Sequence[Candidate] = ()
    found: list[Candidate] = field(default_factory=list)
    measured: int = 0  # rounded heads
    left_out: int = 0  # rounded heads that could not be best

    def search(self) -> None:
        """Fill `found`. The curve must hold the size of all columns and those of `sizes_for`."""
        full = self.shape.hidden_size
        for point in self.choice.curve:
            if point.kept_columns < full:
                self._add("source", [one.at(point.kept_columns) for one in self.choice.sets])
        self.found += self.planes
        if self.budget is None:
            return
        for head_dtype in ROUNDED:
            self._measured(full, head_dtype)
        lowest = reversed(ROUNDED) if self.budget.of_bytes else sorted(ROUNDED, key=self._lowest_bytes)
        for head_dtype in lowest:
            self._search_bytes(head_dtype) if self.budget.of_bytes else self._search_drift(head_dtype)

    @property
    def serving(self) -> list[Candidate]:
        """Candidates that meet the budget and pass every drift budget, best first."""
        found = [one for one in self.found if one.passes and self._inside(one)]
        return sorted(found, key=self._order)

    @property
    def nearest(self) -> Candidate:
        """The closest candidate where none serves: the smallest that passes, or the one that drifts least."""
        passing = [one for one in self.found if one.passes]
        if passing and self.budget is not None and self.budget.of_bytes:
            return min(passing, key=lambda one: (self._bounded(one), one.kl))
        inside = [one for one in self.found if self._inside(one)]
        return min(inside or self.found, key=lambda one: (one.kl, one.share))

    def told(self, chosen: Candidate | None) -> FrontierOfReport:
        """The frontier as the report has it."""
        ordered = sorted(self.found, key=lambda one: (one.share, one.kl))
        asked = dict.fromkeys(Budget.model_fields) if self.budget is None else self.budget.model_dump()
        return FrontierOfReport(
            budget=AskedBudget(**asked),
            swept=sum(one.head_dtype == "source" for one in ordered),
            measured=self.measured,
            left_out=self.left_out,
            points=tuple(self._told(one, chosen) for one in ordered),
            nearest=None if chosen else self._told(self.nearest, None),
        )

    def _told(self, one: Candidate, chosen: Candidate | None) -> FrontierPoint:
        better = (other for other in self.found if other.share <= one.share and other is not one)
        return FrontierPoint(
            **dict(one.points[0].judged(one.passes)),
            head_dtype=one.head_dtype,
            bits=one.reading.bits if one.reading else None,
            rescored=one.reading.rescored if one.reading else None,
            head_bytes=one.nbytes,
            share=one.share,
            stored_share=one.stored_share,
            serves=one.passes and self._inside(one),
            efficient=not any(other.kl <= one.kl for other in better),
            chosen=one is chosen,
        )

    def _add(self, head_dtype: ColumnDtype, points: list[DriftPoint]) -> Candidate:
        kept = points[0].kept_columns
        candidate = Candidate(
            head_dtype=head_dtype,
            unrounded=[one.at(kept) for one in self.choice.sets],
            measured=points,
            nbytes=self.shape.nbytes(kept, head_dtype),
            share=self._share(kept, head_dtype),
            stored_share=self.shape.stored_nbytes(kept, head_dtype) / self.before,
            passes=self.choice.allows(points),
        )
        self.found.append(candidate)
        return candidate

    def _measured(self, kept: int, head_dtype: RoundedDtype) -> Candidate:
        known = [one for one in self.found if one.head_dtype == head_dtype and one.kept == kept]
        if known:
            return known[0]
        self.measured += 1
        return self._add(head_dtype, self.measure(kept, head_dtype))

    def _search_bytes(self, head_dtype: RoundedDtype) -> None:
        assert self.budget is not None
        sizes = fitting(self.budget, self._sizes(), self.shape, head_dtype, self.before)
        if not sizes:
            return
        best = min((one.kl for one in self.found if self._inside(one)), default=float("inf"))
        bound = max(one.at(sizes[-1]).kl_mean for one in self.choice.sets)
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
        """The share of the narrowest head that can pass in this precision."""
        return min((self._share(kept, head_dtype) for kept in self._may_pass()), default=float("inf"))

    def _may_pass(self) -> list[int]:
        return [kept for kept in self._sizes() if all(one.passes(kept) for one in self.choice.sets)]

    def _sizes(self) -> list[int]:
        return sorted(point.kept_columns for point in self.choice.curve)

    def _share(self, kept: int, head_dtype: ColumnDtype) -> float:
        return self.shape.nbytes(kept, head_dtype) / self.before

    def _inside(self, one: Candidate) -> bool:
        """Whether it meets the budget of bytes, or at least saves some."""
        limit = None if self.budget is None else self.budget.stored_bytes or self.budget.read
        return one.share < 1 if limit is None else self._bounded(one) <= limit

    def _bounded(self, one: Candidate) -> float:
        """The share that the budget is about."""
        return one.share if self.budget is None or self.budget.stored_bytes is None else one.stored_share

    def _order(self, one: Candidate) -> tuple[float, float]:
        least_kl = self.budget is not None and self.budget.of_bytes
        return (one.kl, one.share) if least_kl else (self._counted_share(one), one.kl)

    def _counted_share(self, one: Candidate) -> float:
        """Without a budget the same planes with a few more rows rescored count as reading no more: KL decides."""
        if self.budget is not None or one.reading is None:
            return one.share
        bits = one.reading.bits
        least = min(
            other.share for other in self.planes if other.passes and other.reading and other.reading.bits == bits
        )
        return least if one.share <= FEW_MORE * least else one.share


def fitting(budget: Budget, sizes: Sequence[int], shape: HeadShape, head_dtype: ColumnDtype, before: int) -> list[int]:
    """Those of `sizes` whose heads meet a budget of bytes. before: bytes of the head as it was."""
    if budget.stored_bytes is not None:
        return [kept for kept in sizes if shape.stored_nbytes(kept, head_dtype) <= budget.stored_bytes * before]
    return [kept for kept in sizes if shape.nbytes(kept, head_dtype) <= (budget.read or 0) * before]


def sizes_for(budget: Budget, shape: HeadShape, before: int, multiple: int) -> list[int]:
    """Kept sizes that the sweep must hold for this budget: all columns, and the widest of each precision that fits."""
    sizes = {shape.hidden_size}
    if budget.of_bytes:
        steps = range(multiple, shape.hidden_size + 1, multiple)
        for head_dtype in COLUMNS:
            sizes |= set(fitting(budget, steps, shape, head_dtype, before)[-1:])
    return sorted(sizes)
