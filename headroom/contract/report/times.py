"""The part of a report on what a step of decoding took on the worker's device."""

from pydantic import Field

from headroom.contract.report.part import Measured, ReportPart


class StepTime(ReportPart):
    """Median seconds, of the model as it was and of the stored one, in turns."""

    before: Measured
    after: Measured


class HeadTime(StepTime):
    """What a step of the head alone took."""

    batch: int = Field(description="tokens at a time")


class TimesOfReport(ReportPart):
    """Plain eager calls; an engine that captures graphs has figures of its own."""

    device: str
    threads: int | None = Field(default=None, description="of a CPU")
    head: tuple[HeadTime, ...]
    step: StepTime | None = Field(
        default=None, description="of a whole model at batch 1; null: offloaded, or not causal"
    )
