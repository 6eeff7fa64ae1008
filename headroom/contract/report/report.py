"""The report of a job: one record for every kind of job, told apart by `kind`. docs/report.md explains the fields.

Engines make these records of what they measured: a field of another type is refused there and then. `open_report`
reads a stored one of any version.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Discriminator, Field, Tag, TypeAdapter, ValidationError

from headroom.contract.report.continuations import ContinuationsOfReport
from headroom.contract.report.curve import AllowedDrift, Baseline, CurvePoint, EvaluatedCorpus, JudgedPoint
from headroom.contract.report.drift_parts import BandDrift, GroupDrift, GroupGap
from headroom.contract.report.dynamics import FrequencyTokens, Readable, TrainingCheckpoint
from headroom.contract.report.encoding import ColumnFigures, ComponentFigures, Encoding, FewExamples, FittedSample
from headroom.contract.report.frontier import FrontierOfReport, PlanesOfReport
from headroom.contract.report.part import Measured, ReportPart
from headroom.contract.report.rollout import Rollout
from headroom.contract.report.source import ComparedModel, CorpusOfReport, EvaluatedText, HeadOfReport, LoadedModel
from headroom.contract.report.steering import Steering
from headroom.contract.report.stored import (
    ByteCounts,
    CheckpointBytes,
    Export,
    LoadedAgain,
    RefinementOfReport,
    Revision,
    Shards,
    StoredCheckpoint,
)
from headroom.contract.report.times import TimesOfReport
from headroom.contract.report.worth import PlainHead, WorthOfReport
from headroom.errors import HeadroomError

WITHOUT_VERSION = 1  # of reports from before there were versions
VERSION = 2


class JobReport(ReportPart):
    """What reports of all kinds have."""

    version: int = Field(default=WITHOUT_VERSION, description="of the report's form")
    job_id: str
    versions: dict[str, str] = Field(description="of the packages that figures depend on")
    seed: int
    device: str | None = None
    warnings: tuple[str, ...] = Field(default=(), description="what makes the figures weak, in sentences")
    timing: dict[str, float] = Field(default_factory=dict, description="seconds of each phase, and `total`")


class SourceReport(JobReport):
    """The report of a job on the head of one model."""

    model: LoadedModel
    head: HeadOfReport
    corpus: CorpusOfReport


class EncodingReport(SourceReport):
    """The report of a job that measured how token probability is encoded in the head."""

    encoding: Encoding
    fitted: FittedSample | None = None


class CompressReport(EncodingReport):
    """The report of a compress job, stored or refused."""

    kind: Literal["compress"] = "compress"
    method: str
    repair: str
    head_dtype: str = Field(default="source", description="of a budget: what it chose")
    budget: AllowedDrift
    shards: Shards | None = None
    baseline: Baseline
    curve: tuple[CurvePoint, ...] = Field(description="a point for every kept size that was measured")
    comparisons: dict[str, tuple[CurvePoint, ...]] = Field(default_factory=dict, description="other methods")
    selected: JudgedPoint = Field(description="what was chosen; `passes`: inside its budget on every text")
    unrounded: CurvePoint | None = Field(
        default=None, description="of a rounded or refined head: its point of the curve"
    )
    refinement: RefinementOfReport | None = None
    planes: PlanesOfReport | None = Field(default=None, description="where the job considered bit planes")
    frontier: FrontierOfReport | None = Field(
        default=None, description="of a budget, or of a job that may choose any form"
    )
    largest_passing_ratio: float | None = Field(default=None, description="null when no point of the curve passed")
    corpora: tuple[EvaluatedCorpus, ...] = ()
    bands: tuple[BandDrift, ...] = Field(default=(), description="by token frequency, all tokens first")
    groups: tuple[GroupDrift, ...] = ()
    group_gap: GroupGap | None = None
    continuations: ContinuationsOfReport | None = None
    stored: StoredCheckpoint | None = None
    exports: tuple[Export, ...] = ()
    revisions: tuple[Revision, ...] = ()
    bytes: ByteCounts
    plain: dict[str, PlainHead] = Field(default_factory=dict, description="all columns rounded, measured beside")
    worth: WorthOfReport | None = Field(
        default=None, description="what storing saves; null when the gate refused before"
    )
    time: TimesOfReport | None = Field(
        default=None, description="of a step of decoding; null without a stored checkpoint"
    )
    advice: str = ""
    rollout: Rollout | None = Field(default=None, description="null when refused")


class AnalyzeReport(EncodingReport):
    """The report of an analyze job."""

    kind: Literal["analyze"]
    columns: ColumnFigures
    components: ComponentFigures
    few_examples: tuple[FewExamples, ...] = ()


class SteerReport(EncodingReport):
    """The report of a steer job, stored or refused."""

    kind: Literal["steer"]
    baseline: Baseline
    steering: Steering
    bytes: CheckpointBytes
    stored: LoadedAgain | None = Field(default=None, description="null when refused")


class DynamicsReport(SourceReport):
    """The report of a dynamics job."""

    kind: Literal["dynamics"]
    frequency_tokens: FrequencyTokens
    checkpoints: tuple[TrainingCheckpoint, ...] = Field(description="oldest first")
    readable: Readable


class CompareReport(JobReport):
    """The report of a compare job."""

    kind: Literal["compare"]
    model: ComparedModel
    other: ComparedModel = Field(description="what is judged, against `model`")
    corpus: EvaluatedText
    baseline: Baseline
    perplexity_after: Measured
    budget: AllowedDrift | None = None
    passes: bool | None = Field(description="null without a budget")
    bands: tuple[BandDrift, ...] = Field(min_length=1, description="by token frequency, all tokens first")
    groups: tuple[GroupDrift, ...] = ()


def _kind(data: Any) -> Any:
    return data.get("kind", "compress") if isinstance(data, dict) else getattr(data, "kind", None)


Report: TypeAlias = Annotated[
    Annotated[CompressReport, Tag("compress")]
    | Annotated[AnalyzeReport, Tag("analyze")]
    | Annotated[SteerReport, Tag("steer")]
    | Annotated[CompareReport, Tag("compare")]
    | Annotated[DynamicsReport, Tag("dynamics")],
    Discriminator(_kind),
]

REPORTS: TypeAdapter[Report] = TypeAdapter(Report)


def open_report(document: Mapping[str, Any]) -> Report:
    """A report as it was stored, by this version or another. HeadroomError: it is none that this one understands."""
    try:
        return REPORTS.validate_python(document, strict=False)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in problem["loc"])
        raise HeadroomError(
            f"The report cannot be read ({where}: {problem['msg']}); a newer headroom may understand it."
        ) from error


def as_document(report: Report) -> dict[str, Any]:
    """The JSON that is stored: what was said, and nothing that was not."""
    return report.model_dump(mode="json", exclude_unset=True)


def unknown_fields(part: BaseModel, place: str = "") -> Iterator[str]:
    """Where the report says what no field of these records does: of a later version, or a mistake."""
    yield from (f"{place}.{name}" for name in part.model_extra or {})
    for name in type(part).model_fields:
        yield from _unknown_within(getattr(part, name), f"{place}.{name}")


def _unknown_within(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        yield from unknown_fields(value, place)
    elif isinstance(value, tuple):
        for number, inner in enumerate(value):
            yield from _unknown_within(inner, f"{place}[{number}]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _unknown_within(inner, f"{place}.{name}")
