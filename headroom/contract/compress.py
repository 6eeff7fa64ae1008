"""What a compress job is asked: slice the head, measure the drift, store a checkpoint if it stays in the budget."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from headroom.contract.job_recipe import CorpusReference, JobRecipe, ReadingOptions, Strict
from headroom.contract.repository_names import DEFAULT_NAMESPACE, is_repository_id

CALIBRATED = "corpus"  # the name of the corpus that also calibrates, among those that are evaluated

Ratio = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]

RoundedDtype = Literal["int8", "int4"]
ColumnDtype = Literal["source"] | RoundedDtype  # of kept columns
HeadDtype = ColumnDtype | Literal["planes"]  # of any stored head; bit planes hold every column
DRIFT_BUDGETS = {"drift": "perplexity", "kl": "kl"}  # what each is called among the bounds of drift


class Method(StrEnum):
    """Which basis the head is written in before its columns are deleted (docs/methods.md)."""

    SLOPE = "slope"
    SPEARMAN = "spearman"
    RANDOM = "random"
    MAGNITUDE = "magnitude"
    FISHER = "fisher"
    PCA = "pca"
    ACTIVATION = "activation"
    PROBABILITY = "probability"


Bound = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]


class DriftBudget(Strict):
    """How far predictions may move; null leaves that figure unbounded.

    Perplexity alone does not see predictions that move without growing worse on average, so KL is bounded by default
    too. Of a growth of perplexity the upper end of the 95 % interval must stay inside, of the others the mean.
    """

    perplexity: Annotated[Bound | None, Field(description="largest relative growth of perplexity")] = 0.01
    kl: Annotated[Bound | None, Field(description="largest mean KL divergence, nats a token")] = 0.01
    top1: Annotated[
        Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None,
        Field(description="smallest share of positions whose most probable token stays the same"),
    ] = None
    rare_perplexity: Annotated[
        Bound | None, Field(description="largest relative growth of perplexity on tokens of the rarest band")
    ] = None


class CalibratedDriftBudget(DriftBudget):
    """Bounds on drift, and on how far groups of texts may lie apart."""

    group_gap: Bound | None = None


Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Budget(Strict):
    """Instead of a ratio and a form of head: all forms are searched. One of them.

    Of bytes: the least KL at this share of the head's bytes. Of drift or KL: the fewest bytes read inside it.
    """

    read_bytes: Share | None = Field(default=None, description="share of the head's bytes that one decoded token reads")
    stored_bytes: Share | None = Field(
        default=None,
        description="share of the bytes that the head, with an input table it is tied to, has in the checkpoint",
    )
    head_bytes: Share | None = Field(default=None, description="the earlier name of read_bytes")
    drift: Bound | None = Field(default=None, description="relative growth of perplexity")
    kl: Bound | None = Field(default=None, description="mean KL divergence, nats a token")

    @property
    def read(self) -> float | None:
        """The bound on bytes read, under either name."""
        return self.head_bytes if self.read_bytes is None else self.read_bytes

    @property
    def of_bytes(self) -> bool:
        return self.drift is None and self.kl is None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError(
                "a budget is either read_bytes or stored_bytes (least KL at this share of the head's bytes), or drift "
                "or kl (fewest bytes read inside it): give one of them"
            )
        return self


class PlanesOptions(Strict):
    """How a head in bit planes is read; all settings read the same stored tensors, and can be changed once loaded."""

    bits: Literal[8, 4, 3, 2] = Field(
        default=4, description="upper bits of every entry that the preview of all logits reads"
    )
    rescored: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=1024,
        description="best rows of each position that are computed again from all 8 bits, at most the vocabulary",
    )
    whole_columns: Annotated[int, Field(ge=0, le=4096, multiple_of=32)] | None = Field(
        default=None, description="first columns that the preview reads with all 8 bits; null: 32, or none of fewer"
    )


class EvaluationCorpus(Strict):
    """A further text to measure on, with a budget of its own; the calibration never sees it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
    corpus: CorpusReference
    drift: DriftBudget | None = None  # None: the budget of the job, as is each bound that is left out


class CompressOptions(ReadingOptions):
    """Settings with good defaults."""

    head_dtype: HeadDtype | Literal["auto"] = Field(
        default="auto",
        description="auto: columns in the model's own dtype at a ratio; without one the best form for the budgets",
    )
    planes: PlanesOptions | None = Field(default=None, description="settings of head_dtype planes")
    repair: Literal["mean", "none"] = "mean"
    tied: Literal["keep", "untie"] = "keep"
    compare: list[Annotated[Method, Field(strict=False)]] = Field(default_factory=list, max_length=8)
    group_field: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    continuations: Annotated[int, Field(ge=0, le=64)] = 8  # 0: none
    keep_removed: bool = False
    refine: bool = False
    publish_ratios: list[Ratio] = Field(default_factory=list, max_length=8)
    export: list[Literal["dense", "onnx"]] = Field(default_factory=list, max_length=2)
    shards: Annotated[int, Field(ge=1, le=64)] = 1
    column_multiple: Annotated[int, Field(ge=1, le=256)] = 8
    max_shard_bytes: Annotated[int, Field(ge=1_000_000, le=50_000_000_000)] = 5_000_000_000

    @field_validator("export", "publish_ratios")
    @classmethod
    def _each_once(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) < len(value):
            raise ValueError("name each one once")
        return value


class Publication(Strict):
    """Where the hub shows the checkpoint. Jobs that share a repository are its commits; the newest is `main`."""

    repo: Annotated[str, Field(max_length=193)]

    @field_validator("repo")
    @classmethod
    def _is_free_to_use(cls, value: str) -> str:
        if not is_repository_id(value):
            raise ValueError("a repository is 'namespace/name', of letters, digits, '_', '-' and '.', without '--'")
        if value.startswith(f"{DEFAULT_NAMESPACE}/"):
            raise ValueError(
                f"{DEFAULT_NAMESPACE}/ holds the repositories that are named by jobs; use another namespace"
            )
        return value


class CompressRecipe(JobRecipe):
    """The body of POST /v1/jobs for kind `compress`."""

    kind: Literal["compress"] = "compress"
    ratio: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | Literal["auto"] = "auto"
    method: Annotated[Method, Field(strict=False)] = Method.PROBABILITY
    budget: Budget | None = None
    drift: CalibratedDriftBudget = CalibratedDriftBudget()
    ratios: list[Ratio] = Field(default_factory=list, max_length=64)
    evaluation: list[EvaluationCorpus] = Field(default_factory=list, max_length=16)
    publish: Publication | None = None
    options: CompressOptions = CompressOptions()

    @property
    def seeks_the_smallest(self) -> bool:
        """Whether the service chooses how much is saved; a ratio, planes or a number of bytes are the user's."""
        if self.head_dtype == "planes":
            return False
        return self.ratio == "auto" and (self.budget is None or not self.budget.of_bytes)

    @property
    def head_dtype(self) -> HeadDtype:
        """What was asked for; of `auto` the model's own, which is what a ratio alone means."""
        return "source" if self.options.head_dtype == "auto" else self.options.head_dtype

    @property
    def planes(self) -> PlanesOptions:
        return self.options.planes or PlanesOptions()

    @property
    def is_open(self) -> bool:
        """Whether planes are considered beside sliced columns: neither a ratio nor a form of head was asked for."""
        form_is_open = self.budget is not None or self.options.head_dtype == "auto"
        return self.ratio == "auto" and form_is_open and not self._wants_columns

    @property
    def _wants_columns(self) -> list[str]:
        """Fields that only a sliced head can serve."""
        options = self.options
        asked = {
            "method": self.method is not Method.PROBABILITY,
            "options.repair none": options.repair == "none",
            "options.keep_removed": options.keep_removed,
            "options.refine": options.refine,
            "options.publish_ratios": bool(options.publish_ratios),
            "options.export dense": "dense" in options.export,
        }
        return [name for name, is_asked in asked.items() if is_asked]

    @property
    def group_field(self) -> str | None:
        return self.options.group_field

    @property
    def shards(self) -> int:
        return self.options.shards

    @property
    def publish_as(self) -> str | None:
        return self.publish.repo if self.publish else None

    @property
    def corpora(self) -> tuple[CorpusReference, ...]:
        return (self.corpus, *(other.corpus for other in self.evaluation))

    def with_corpora(self, ids: Sequence[str]) -> Self:
        others = [other.model_copy(update={"corpus": id_}) for other, id_ in zip(self.evaluation, ids[1:], strict=True)]
        return self.model_copy(update={"corpus": ids[0], "evaluation": others})

    @model_validator(mode="before")
    @classmethod
    def _bounds_of_further_texts_are_the_jobs_where_left_out(cls, data: object) -> object:
        """After the next one, as pydantic runs them from last to first; a stored recipe says every bound already."""
        drift = data.get("drift") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(drift, dict) or not isinstance(data.get("evaluation"), list):
            return data
        shared = {name: bound for name, bound in drift.items() if name in DriftBudget.model_fields}
        return data | {"evaluation": [_with_bounds(one, shared) for one in data["evaluation"]]}

    @model_validator(mode="before")
    @classmethod
    def _the_drift_of_a_budget_is_the_gates(cls, data: object) -> object:
        budget, drift = (data.get("budget"), data.get("drift", {})) if isinstance(data, dict) else (None, None)
        if not isinstance(data, dict) or not isinstance(budget, dict) or not isinstance(drift, dict):
            return data
        for name, bound in DRIFT_BUDGETS.items():
            allowed = budget.get(name)
            if allowed is not None:
                if drift.get(bound, allowed) != allowed:
                    raise ValueError(f"budget.{name} is what drift.{bound} bounds: give one of them")
                drift = drift | {bound: allowed}
        return data | {"drift": drift}

    @model_validator(mode="after")
    def _a_budget_chooses_ratio_and_precision(self) -> Self:
        if self.budget is None:
            return self
        chosen = self.options.head_dtype not in ("auto", "source") or self.options.planes is not None
        if self.ratio != "auto" or chosen:
            raise ValueError(
                "a budget chooses ratio and precision: leave out ratio and the form of the head (options.head_dtype, "
                "options.planes), or budget"
            )
        if self.options.keep_removed:
            raise ValueError("a budget may round the head, which then cannot be restored: leave out keep_removed")
        return self

    @model_validator(mode="after")
    def _a_gap_has_groups(self) -> Self:
        if self.drift.group_gap is not None and self.options.group_field is None:
            raise ValueError("drift.group_gap bounds the gap between groups: name their field in options.group_field")
        return self

    @model_validator(mode="after")
    def _rounding_and_slicing_agree(self) -> Self:
        if self.ratio == 0 and self.head_dtype == "source":
            raise ValueError(
                "a ratio of 0 removes nothing: ask for more, or for options.head_dtype planes, int8 or int4"
            )
        if self.options.keep_removed and self.options.head_dtype not in ("auto", "source"):
            raise ValueError("a rounded head cannot be restored: leave out options.keep_removed, or head_dtype")
        if self.options.keep_removed and self.options.refine:
            raise ValueError("a refined head cannot be restored: leave out options.keep_removed, or refine")
        if self.options.refine and self.ratio == 0:
            raise ValueError("a ratio of 0 leaves nothing to refine: ask for more, or leave out options.refine")
        return self

    @model_validator(mode="after")
    def _planes_hold_every_column(self) -> Self:
        if self.options.head_dtype != "planes":
            if self.options.planes is not None:
                raise ValueError("options.planes are settings of options.head_dtype planes: set that too, or leave out")
            return self
        if self.ratio not in (0, "auto"):
            raise ValueError("planes hold every column: leave out ratio, or options.head_dtype planes")
        if self._wants_columns:
            raise ValueError(
                f"planes hold every column, in a basis of their own: leave out {', '.join(self._wants_columns)}, or "
                "options.head_dtype planes"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [CALIBRATED, *(other.name for other in self.evaluation)]
        if len(set(names)) < len(names):
            raise ValueError(f"each evaluation corpus needs a name of its own, other than {CALIBRATED!r}")
        return self


def _with_bounds(evaluation: object, shared: dict[str, object]) -> object:
    if not isinstance(evaluation, dict) or not isinstance(evaluation.get("drift"), dict):
        return evaluation
    return evaluation | {"drift": shared | evaluation["drift"]}
