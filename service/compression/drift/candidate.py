"""A head that a job may store: one value from the search to the report."""

from dataclasses import dataclass

from headroom.contract.compress import HeadDtype
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.planes.rescored_drift import PlaneReading


@dataclass(frozen=True)
class Candidate:
    """A head that may be stored: its form, its bytes, and its drift as far as it is known before.

    Points are those of every evaluation set, the calibrated corpus first.
    """

    head_dtype: HeadDtype
    unrounded: list[DriftPoint]  # the same columns in the model's own dtype; of planes, which have no such, as measured
    measured: list[DriftPoint] | None  # as it would be stored; None: rounded, and nobody has measured it yet
    nbytes: int  # read for a position
    share: float  # of the bytes of the head as it was
    stored_share: float  # of what it has in the checkpoint, with a table that it is tied to, likewise
    passes: bool  # the drift budgets of all sets
    reading: PlaneReading | None = None  # of planes

    @property
    def points(self) -> list[DriftPoint]:
        return self.measured or self.unrounded

    @property
    def kept(self) -> int:
        return self.unrounded[0].kept_columns

    @property
    def worst(self) -> float:
        """Upper end of the interval of the growth of perplexity, in the set where it is highest."""
        return max(point.perplexity_drift_high for point in self.points)

    @property
    def kl(self) -> float:
        """KL divergence in the set where it is highest."""
        return max(point.kl_mean for point in self.points)
