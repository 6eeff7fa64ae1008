"""The part of a report on a comparison: one of the two checkpoints."""

from pydantic import Field

from headroom.contract.report.part import Measured
from headroom.contract.report.source import LoadedModel


class ComparedModel(LoadedModel):
    """Loaded as users load it."""

    kept_columns: int | None = Field(None, description="of a sliced head; null: a plain one")
    head_bytes: int
    checkpoint_bytes: int
    seconds_per_token: Measured = Field(None, description="of decoding; null where a model cannot continue text")
