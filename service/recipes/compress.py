"""What a compress job is asked: slice the head, measure the drift, store a checkpoint if it stays in the budget."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from service.recipes.job_recipe import JobRecipe, ReadingOptions, Strict

Ratio = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


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


class DriftBudget(Strict):
    """How far predictions may move. The upper end of the 95 % interval must stay inside."""

    perplexity: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.01
    kl: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None


class CompressOptions(ReadingOptions):
    """Settings with good defaults."""

    repair: Literal["mean", "none"] = "mean"
    tied: Literal["keep", "untie"] = "keep"
    compare: list[Annotated[Method, Field(strict=False)]] = Field(
        default_factory=lambda: [Method.SLOPE, Method.RANDOM], max_length=8
    )
    column_multiple: Annotated[int, Field(ge=1, le=256)] = 8
    max_shard_bytes: Annotated[int, Field(ge=1_000_000, le=50_000_000_000)] = 5_000_000_000


class CompressRecipe(JobRecipe):
    """The body of POST /v1/jobs for kind `compress`."""

    kind: Literal["compress"] = "compress"
    ratio: Ratio | Literal["auto"] = "auto"
    method: Annotated[Method, Field(strict=False)] = Method.PROBABILITY
    drift: DriftBudget = DriftBudget()
    ratios: list[Ratio] = Field(default_factory=list, max_length=64)
    options: CompressOptions = CompressOptions()
