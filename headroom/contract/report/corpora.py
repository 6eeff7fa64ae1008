"""The part of a report on one of several evaluation texts."""

from pydantic import Field

from headroom.contract.report.curve import AllowedDrift, Baseline, CurvePoint, JudgedPoint, StoredDriftFigures
from headroom.contract.report.part import Measured, ReportPart


class EvaluatedCorpus(ReportPart):
    """Its budget, its curve, and the chosen size on it."""

    name: str
    digest: str
    evaluation_tokens: int
    evaluation_windows: int
    budget: AllowedDrift
    baseline: Baseline
    curve: tuple[CurvePoint, ...]
    selected: JudgedPoint = Field(description="`passes`: of this text alone")
    stored: StoredDriftFigures | None = None
    outside_share: Measured = Field(
        None, description="variance of its hidden states outside the calibration's main directions"
    )
