"""What a dynamics job is asked: how early in training the head tells of token frequency. A report, no files."""

from typing import Annotated, Literal

from pydantic import Field

from headroom.contract.job_recipe import JobRecipe, ModelReference


class DynamicsRecipe(JobRecipe):
    """The body of POST /v1/jobs for kind `dynamics`. `model` is the last state, and its tokenizer reads the corpus."""

    kind: Literal["dynamics"]
    checkpoints: Annotated[list[ModelReference], Field(min_length=1, max_length=64)]  # earlier states, oldest first

    @property
    def other_models(self) -> tuple[ModelReference, ...]:
        return tuple(self.checkpoints)
