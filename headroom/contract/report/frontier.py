"""The part of a report on a search for a budget: every head that was considered, bytes against drift."""

from pydantic import Field

from headroom.contract.report.curve import JudgedPoint
from headroom.contract.report.part import ReportPart


class AskedBudget(ReportPart):
    """One of the two."""

    head_bytes: float | None = Field(None, description="share of the head's bytes, for the least drift")
    drift: float | None = Field(None, description="growth of perplexity, for the fewest bytes")


class FrontierPoint(JudgedPoint):
    """A head of one size and precision. `passes`: the drift budgets of all texts."""

    head_dtype: str = Field(description="source: the model's own")
    head_bytes: int
    share: float = Field(description="of the bytes of the head as it was")
    serves: bool = Field(description="passes, and meets the budget")
    efficient: bool = Field(description="no other is better in bytes and in the upper end of the drift")
    chosen: bool


class FrontierOfReport(ReportPart):
    """What was compared, and what came of it."""

    budget: AskedBudget
    swept: int = Field(description="sizes of the curve")
    measured: int = Field(description="rounded heads")
    left_out: int = Field(description="rounded heads that could not be best")
    points: tuple[FrontierPoint, ...]
    nearest: FrontierPoint | None = Field(None, description="where none serves")
