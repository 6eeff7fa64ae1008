"""The parts of a report on what a head saves, and on the plain head that anyone would take instead."""

from pydantic import Field

from headroom.contract.report.curve import CurvePoint
from headroom.contract.report.part import ReportPart


class PlainHead(CurvePoint):
    """All columns of the head as integers to the nearest, each row with its scale."""

    head_bytes: int
    share: float = Field(description="of the bytes of the head as it was")


class WorthOfReport(ReportPart):
    """Apart from the gate. Shares are after over before."""

    worth_it: bool
    decides: bool = Field(description="nothing is stored when it is not worth it: the service chose the size")
    removed: float = Field(description="share of the head's columns")
    head_share: float
    decode_read_share: float
    checkpoint_share: float
    sentence: str
