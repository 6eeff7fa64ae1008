"""The parts of a report on other heads: all that a search considered, and the ways to read one in bit planes."""

from pydantic import Field

from headroom.contract.report.curve import JudgedPoint
from headroom.contract.report.part import Measured, ReportPart


class AskedBudget(ReportPart):
    """One of them; none of a job that was asked for neither a ratio nor a form of head."""

    read_bytes: float | None = Field(default=None, description="share of the head's bytes read for a position")
    stored_bytes: float | None = Field(default=None, description="share of the bytes that it has in the checkpoint")
    head_bytes: float | None = Field(default=None, description="the earlier name of read_bytes")
    drift: float | None = Field(default=None, description="growth of perplexity, for the fewest bytes read")
    kl: float | None = Field(default=None, description="nats a token, for the fewest bytes read")

    @property
    def read(self) -> float | None:
        return self.head_bytes if self.read_bytes is None else self.read_bytes

    @property
    def words(self) -> str:
        """What was asked for."""
        if self.read is not None:
            return f"the least KL at {self.read:.3g} of the head's bytes read"
        if self.stored_bytes is not None:
            return f"the least KL at {self.stored_bytes:.3g} of the head's bytes stored"
        if self.kl is not None:
            return f"the fewest bytes read at a KL of {self.kl:.3g}"
        if self.drift is not None:
            return f"the fewest bytes read at a drift of {self.drift:.2%}"
        return "the fewest bytes read inside the drift budgets"


class FrontierPoint(JudgedPoint):
    """A head of one size and form. `passes`: the drift budgets of all texts."""

    head_dtype: str = Field(description="source: the model's own")
    bits: int | None = Field(default=None, description="of planes: what the preview reads")
    rescored: int | None = Field(default=None, description="of planes: rows computed again")
    head_bytes: int = Field(description="read for a position")
    share: float = Field(description="of the bytes of the head as it was")
    stored_share: Measured = Field(
        default=None, description="of what it has in the checkpoint, with a table that it is tied to"
    )
    serves: bool = Field(description="passes, and meets the budget")
    efficient: bool = Field(description="no other is better in bytes read and in KL")
    chosen: bool

    def is_plain(self, hidden_size: int) -> bool:
        """Whether it is all columns, rounded."""
        return self.head_dtype in ("int8", "int4") and self.kept_columns == hidden_size

    def is_same_head(self, other: "FrontierPoint") -> bool:
        return (self.head_dtype, self.kept_columns, self.bits, self.rescored) == (
            other.head_dtype,
            other.kept_columns,
            other.bits,
            other.rescored,
        )


class FrontierOfReport(ReportPart):
    """What was compared, and what came of it."""

    budget: AskedBudget
    swept: int = Field(description="sizes of the curve")
    measured: int = Field(description="rounded heads")
    left_out: int = Field(description="rounded heads that could not be best")
    points: tuple[FrontierPoint, ...]
    nearest: FrontierPoint | None = Field(default=None, description="where none serves")


class PlanesPoint(JudgedPoint):
    """The stored planes, read in one way. `passes`: the drift budgets of all texts."""

    bits: int = Field(description="upper bits of every entry that the preview of all logits reads")
    rescored: int = Field(description="best rows of each position that are computed again from all 8 bits")
    head_bytes: int = Field(description="read for a position")
    share: float = Field(description="of the bytes of the head as it was")
    stored_share: float = Field(description="of what it has in the checkpoint, with a table that it is tied to")


class TemperedKl(ReportPart):
    """What one weighting of tokens gave on calibration positions that were held out."""

    tau: float
    kl: Measured


class PlanesOfReport(ReportPart):
    """The head in bit planes: fitted once, and read in several ways."""

    bits: int | None = Field(default=None, description="of what was stored; null: another form was, or nothing")
    rescored: int | None = None
    whole_columns: int = Field(description="first columns that the preview reads with all 8 bits")
    tau: float = Field(description="tokens weigh alpha^tau; chosen on held-out calibration positions")
    tau_kl: tuple[TemperedKl, ...] = ()
    held_out: int = Field(description="positions that tau was chosen on")
    curve: tuple[PlanesPoint, ...] = Field(description="a point for every way of reading that was measured")
