"""The parts of a report on drift by parts of the text: bands of token frequency, groups of texts."""

from pydantic import Field

from headroom.contract.report.curve import DriftInterval
from headroom.contract.report.part import Measured, ReportPart


class PartFigures(DriftInterval):
    """Drift at the positions in one part of the text; null where it has none. `_low`, `_high`: 95 % interval."""

    positions: int
    perplexity_before: Measured
    kl_mean: Measured = Field(description="KL(full || pruned), nats a token")
    kl_mean_low: Measured
    kl_mean_high: Measured
    kl_p50: Measured
    kl_p95: Measured
    kl_p99: Measured
    top1_agreement: Measured
    top1_agreement_low: Measured
    top1_agreement_high: Measured
    top5_overlap: Measured = Field(description="share of the five most probable tokens that stay among five")
    delta_p_mean: Measured = Field(description="probability of the token that came, after less before")
    delta_p_mean_low: Measured
    delta_p_mean_high: Measured
    delta_p_rms: Measured
    delta_p_p05: Measured
    delta_p_p50: Measured
    delta_p_p95: Measured


class BandDrift(PartFigures):
    """Drift at the tokens of one band of frequency; the first band is all of them."""

    band: str
    tokens: int = Field(description="of the vocabulary")


class GroupDrift(PartFigures):
    """Drift on one group of texts."""

    group: str
    windows: int


class GroupGap(ReportPart):
    """Between the groups whose perplexity drifts the most and the least."""

    most: str
    least: str
    gap: Measured
    low: Measured
    high: Measured = Field(description="the largest upper end of any two groups")
