"""What a job would work on and take, as both sides of HTTP know it."""

from headroom.contract.answers.answer import Answer


class FoundModelView(Answer):
    id: str
    revision: str | None
    bytes: int
    dtype: str


class HeadView(Answer):
    vocab_size: int
    hidden_size: int
    tied: bool
    bytes: int


class EstimateView(Answer):
    kept_columns: int | None
    head_bytes_after: int | None
    seconds: float
    memory_bytes: int
    least_memory_bytes: int


class DryRunView(Answer):
    """What a job would work on and take; null where only measuring can tell."""

    valid: bool
    model: FoundModelView
    head: HeadView
    estimate: EstimateView
