"""What a user asks for. Validated once, at the edge; past that point it is trusted.

Unknown fields are refused, numbers are never read from strings, NaN and infinities are no numbers.
"""

import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MODEL_ID_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
LABEL_KEY = re.compile(r"[A-Za-z0-9_.-]{1,63}")

Ratio = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class Strict(BaseModel):
    """Base of every recipe model: frozen, no unknown fields, no coercion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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


class ModelReference(Strict):
    """`ns/name`, and for hub models an optional revision."""

    id: Annotated[str, Field(max_length=193)]
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")] | None = None

    @field_validator("id")
    @classmethod
    def _is_repository_id(cls, value: str) -> str:
        parts = value.split("/")
        if len(parts) != 2 or not all(MODEL_ID_PART.fullmatch(part) for part in parts) or ".." in value:
            raise ValueError("a model id is 'namespace/name', of letters, digits, '_', '-' and '.'")
        return value


class InlineText(Strict):
    """A corpus sent with the job itself."""

    text: Annotated[str, Field(min_length=1, max_length=2_000_000)]


class DriftBudget(Strict):
    """How far predictions may move. The upper end of the 95 % interval must stay inside."""

    perplexity: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.01
    kl: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None


class CompressOptions(Strict):
    """Settings with good defaults. Token counts are caps: a shorter corpus is used whole."""

    repair: Literal["mean", "none"] = "mean"
    tied: Literal["keep", "untie"] = "keep"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    window: Annotated[int, Field(ge=8, le=8192)] = 512
    calibration_tokens: Annotated[int, Field(ge=8, le=4_194_304)] = 16_384
    evaluation_tokens: Annotated[int, Field(ge=8, le=4_194_304)] = 32_768
    column_multiple: Annotated[int, Field(ge=1, le=256)] = 8
    max_shard_bytes: Annotated[int, Field(ge=1_000_000, le=50_000_000_000)] = 5_000_000_000


class CompressRecipe(Strict):
    """The body of POST /v1/jobs for kind `compress`."""

    kind: Literal["compress"] = "compress"
    model: ModelReference
    ratio: Ratio | Literal["auto"] = "auto"
    corpus: Annotated[str, Field(pattern=r"^corpus_[0-9a-f]{32}$")] | InlineText
    method: Annotated[Method, Field(strict=False)] = Method.PROBABILITY
    drift: DriftBudget = DriftBudget()
    ratios: Annotated[list[Ratio], Field(max_length=64)] = []
    options: CompressOptions = CompressOptions()
    labels: Annotated[dict[str, Annotated[str, Field(max_length=255)]], Field(max_length=16)] = {}

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_model_id(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("model"), str):
            return {**data, "model": {"id": data["model"]}}
        return data

    @model_validator(mode="after")
    def _label_keys_are_plain(self) -> Self:
        if not all(LABEL_KEY.fullmatch(key) for key in self.labels):
            raise ValueError("label keys are 1-63 letters, digits, '_', '-' or '.'")
        return self
