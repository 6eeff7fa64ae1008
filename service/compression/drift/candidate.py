"""A head that a job may store: one value from the search to the report."""

from dataclasses import dataclass

from headroom.contract.compress import HeadDtype
from service.compression.drift.drift_points import DriftPoint


@dataclass(frozen=True)
class Candidate:
    """Its form, its bytes, and its drift as far as it is known before it is stored.

    Points are those of every evaluation set, the calibrated corpus first.
    """

    head_dtype: HeadDtype
    unrounded: list[DriftPoint]  # the same columns in the model's own dtype
    measured: list[DriftPoint] | None  # as it would be stored; None: rounded, and nobody has measured it yet
    nbytes: int  # read for a position
    share: float  # of the bytes of the head as it was
    passes: bool  # the drift budgets of all sets

    @property
    def points(self) -> list[DriftPoint]:
        return self.measured or self.unrounded

    @property
    def kept(self) -> int:
        return self.unrounded[0].kept_columns

    @property
    def worst(self) -> float:
        """Upper end of the drift's interval, in the set where it is highest."""
        return max(point.perplexity_drift_high for point in self.points)
