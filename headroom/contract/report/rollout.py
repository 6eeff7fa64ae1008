"""The part of a report that plans a roll-out in stages. Null in the report of a job that was refused."""

from pydantic import Field

from headroom.contract.report.part import Measured, ReportPart


class Stage(ReportPart):
    """What to serve, to how much of the traffic, what to expect and when to stop."""

    traffic: float = Field(description="share")
    ratio: float
    kept_columns: int
    perplexity_drift: Measured
    perplexity_drift_high: Measured
    kl_mean: Measured
    top1_agreement: float
    stop_above_kl: float
    stop_below_agreement: float


class ChecklistItem(ReportPart):
    """Something to be sure of before signing off."""

    text: str
    ok: bool | None = Field(description="null where a person decides")
    evidence: str


class Rollout(ReportPart):
    """Stages from the mildest size that is worth serving to the chosen one."""

    stages: tuple[Stage, ...]
    sampled_positions: int = Field(description="before the next stage")
    sampling: str = Field(description="how to see them")
    back: tuple[str, ...] = Field(description="the way back, in sentences")
    checklist: tuple[ChecklistItem, ...]
