"""The parts of a report on what was stored: the checkpoint as loaded again, its bytes, training, exports, revisions."""

from pydantic import Field

from headroom.contract.report.curve import DriftInterval, StoredDriftFigures
from headroom.contract.report.part import Measured, ReportPart


class LoadedAgain(ReportPart):
    """The stored checkpoint, loaded as a user would and measured."""

    perplexity: Measured
    predicted_perplexity: Measured = Field(description="as measured before storing")
    max_logit_difference: Measured = None


class StoredCheckpoint(LoadedAgain, StoredDriftFigures):
    """The stored checkpoint, loaded again, with its drift on the corpus."""


class RefinementOfReport(ReportPart):
    """What training the kept columns did, on windows that it did not see. KL in nats a token."""

    steps: int
    positions: int
    held_out_positions: int
    kl_before: Measured
    kl_after: Measured
    helped: bool = Field(description="else the closed form was kept")


class Export(ReportPart):
    """A further form of the checkpoint, for programs that do not know its own."""

    kind: str = Field(description="dense or onnx")
    path: str
    bytes: int
    max_logit_difference: Measured = None
    bias: str = Field(description="none, kept or left out")
    perplexity: Measured = None
    perplexity_drift: Measured = None
    perplexity_drift_low: Measured = None
    perplexity_drift_high: Measured = None


class Revision(DriftInterval):
    """A further point of the curve, stored beside the chosen one. Its drift is as stored."""

    name: str
    path: str
    ratio: float
    kept_columns: int
    passes: bool
    kl_mean: Measured
    top1_agreement: float
    checkpoint_bytes: int
    added_bytes: int = Field(default=0, description="files that no other checkpoint of the job has")


class Shards(ReportPart):
    """How a job was spread over workers."""

    asked: int
    lost: int = Field(description="how often one went with its worker and was done again")


class CheckpointBytes(ReportPart):
    """Bytes of all weights, before and after. Null after: nothing was stored."""

    checkpoint_before: int
    checkpoint_after: int | None = None


class ByteCounts(CheckpointBytes):
    """Bytes of all weights and of the head, and what decoding reads."""

    head_before: int = Field(description="read for a position")
    head_after: int | None = None
    stored_before: int | None = Field(
        default=None, description="in the checkpoint, with an input table that the head shares"
    )
    stored_after: int | None = None
    decode_read_before: int = Field(description="read for each decoded token")
    decode_read_after: int | None = None
