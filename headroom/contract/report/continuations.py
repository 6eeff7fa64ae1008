"""The part of a report on greedy continuations: the full head against the stored one, on the stored backbone."""

from pydantic import Field

from headroom.contract.report.part import Measured, ReportPart


class Variety(ReportPart):
    """How much continuations repeat themselves."""

    repetition: float = Field(description="share of 4-grams that came before in the same continuation")
    distinct_1: float
    distinct_2: float


class ContinuationSample(ReportPart):
    """One of them, as text."""

    prompt: str
    before: str
    after: str
    agreement_length: int


class ContinuationsOfReport(ReportPart):
    """Continuations of seeded prompts of the evaluation text."""

    prompts: int
    prompt_tokens: int
    new_tokens: int
    agreement_length_mean: Measured = Field(description="tokens before the first that differs")
    agreement_length_low: Measured
    agreement_length_high: Measured
    identical: float = Field(description="share of prompts")
    before: Variety
    after: Variety
    samples: tuple[ContinuationSample, ...]
