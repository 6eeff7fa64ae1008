"""A shard of a job that its worker did not bring to an end: `data` of an event of type `shard`."""

from enum import StrEnum
from typing import Annotated, TypeAlias

from pydantic import Field, WrapValidator

from headroom.contract.answers.answer import Answer, known_or_as_told


class LossReason(StrEnum):
    LOST = "lost"  # with its process or its worker: it is done again, by anybody
    FAILED = "failed"  # its worker raised an error: the job's own worker does it


ToldLossReason: TypeAlias = Annotated[LossReason, WrapValidator(known_or_as_told)]


class ShardLoss(Answer):
    """Which shard, of which worker, and why. The job goes on."""

    operation: str = Field(description="what was asked of the shard, such as `encode` or `sweep`")
    shard: int = Field(description="its number, from 1")
    shards: int = Field(description="how many there are")
    worker: str = Field(description="host and process that had it")
    why: ToldLossReason
    code: str | None = Field(default=None, description="of the error, if it failed")
    message: str

    def __str__(self) -> str:
        return f"shard {self.shard} of {self.shards} ({self.operation}) {self.why} at {self.worker}: {self.message}"
