"""What a compare job is asked: how far the predictions of one checkpoint lie from another's. A report, no files."""

from typing import Annotated, Literal

from pydantic import Field

from headroom.contract.compress import DriftBudget
from headroom.contract.job_recipe import JobRecipe, ModelReference, ReadingOptions


class CompareOptions(ReadingOptions):
    """How the corpus is read, with the field that names groups of texts."""

    group_field: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class CompareRecipe(JobRecipe):
    """The body of POST /v1/jobs for kind `compare`: `other` is judged against `model`."""

    kind: Literal["compare"]
    other: ModelReference
    drift: DriftBudget | None = None  # None: measured, not judged
    options: CompareOptions = CompareOptions()

    @property
    def other_models(self) -> tuple[ModelReference, ...]:
        return (self.other,)

    @property
    def group_field(self) -> str | None:
        return self.options.group_field
