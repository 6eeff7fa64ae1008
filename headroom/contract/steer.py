"""What a steer job is asked: change how probable some tokens are by editing their rows of the output head."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from headroom.contract.compress import Publication
from headroom.contract.job_recipe import JobRecipe, ReadingOptions, Strict


class SteeredToken(Strict):
    """A token, by its text or its id, and the factor by which its averaged probability shall change."""

    text: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    id: Annotated[int, Field(ge=0)] | None = None
    multiplier: Annotated[float, Field(ge=1e-4, le=1e4, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _is_named_once(self) -> Self:
        if (self.text is None) == (self.id is None):
            raise ValueError("name the token by its text or by its id, not by both")
        return self


class SparseEdit(Strict):
    """Edit only the columns of the largest slopes."""

    sparse: Annotated[int, Field(ge=1)]


class SteerOptions(ReadingOptions):
    """`tied`: what becomes of a head that shares the input table; it can only be edited with a table of its own."""

    tied: Literal["untie", "keep"] = "untie"
    max_shard_bytes: Annotated[int, Field(ge=1_000_000, le=50_000_000_000)] = 5_000_000_000


class SteerRecipe(JobRecipe):
    """The body of POST /v1/jobs for kind `steer`."""

    kind: Literal["steer"]
    tokens: Annotated[list[SteeredToken], Field(min_length=1, max_length=64)]
    edit: Literal["minimum_norm"] | SparseEdit = "minimum_norm"
    few_examples: Annotated[int, Field(ge=8)] | None = None  # tokens of text that the slope is fitted on; None: all
    max_kl: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    publish: Publication | None = None
    options: SteerOptions = SteerOptions()

    @property
    def publish_as(self) -> str | None:
        return self.publish.repo if self.publish else None

    @model_validator(mode="after")
    def _tokens_differ(self) -> Self:
        named = [(token.text, token.id) for token in self.tokens]
        if len(set(named)) < len(named):
            raise ValueError("each token can be steered once")
        return self
