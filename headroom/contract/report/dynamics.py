"""The parts of a report on training dynamics: what the head of each checkpoint tells of token frequency."""

from pydantic import Field

from headroom.contract.report.encoding import RegressionFigures
from headroom.contract.report.part import Measured, ReportPart
from headroom.contract.report.source import ModelOfReport


class FrequencyTokens(ReportPart):
    """What frequencies were counted on."""

    positions: int
    distinct: int


class TrainingCheckpoint(ReportPart):
    """One state of the model."""

    model: ModelOfReport
    perplexity: Measured
    loss: Measured = Field(description="nats a token, held out")
    frequency: RegressionFigures = Field(description="of -log frequency in the corpus")
    probability: RegressionFigures = Field(description="of -log averaged probability")


class Readable(ReportPart):
    """The first checkpoint whose rank correlation with frequency is near the last one's."""

    share: float = Field(description="of the last one's that counts as near")
    checkpoint: int = Field(description="its number, from 0")
    loss_fallen: Measured = Field(description="share of the fall of the loss that was done by then")
