"""The parts of a report that say what was worked on: the model, its head, the corpus."""

from pydantic import Field

from headroom.contract.report.part import Measured, ReportPart


class ModelOfReport(ReportPart):
    """The checkpoint that was read."""

    id: str
    revision: str | None = None
    digest: str = Field(description="of config and weights")


class LoadedModel(ModelOfReport):
    """The checkpoint that was read, with the class that loads it."""

    auto_class: str = Field(default="AutoModelForCausalLM", description="the class of transformers that loads it")


class LogitTransform(ReportPart):
    """What the model does to its logits after the head; null: nothing."""

    scale: float | None = None
    soft_cap: float | None = None


class HeadOfReport(ReportPart):
    """The output head as it was."""

    vocab_size: int = Field(description="rows")
    hidden_size: int = Field(description="columns")
    tied: bool = Field(description="whether it shares its table with the input embedding")
    bias: bool = False
    transform: LogitTransform = LogitTransform()
    dtype: str = "float32"


class EvaluatedText(ReportPart):
    """The text that predictions were measured on."""

    objective: str = Field(default="causal", description="causal, masked, denoising or pairs")
    evaluation_tokens: int = Field(description="predicted positions")
    evaluation_windows: int
    window: int = Field(description="tokens of a window at most")
    split: str | None = Field(default=None, description="how calibration and evaluation were told apart")


class CorpusOfReport(EvaluatedText):
    """The text, with the part of it that calibrates."""

    digest: str
    calibration_tokens: int = Field(description="predicted positions")
    calibration_windows: int | None = None
    stride: int | None = Field(default=None, description="tokens from the start of one window to the next's")
    starts_with_bos: bool | None = None
    backbone_from_cache: bool | None = Field(default=None, description="whether the hidden states were known already")


class ComparedModel(LoadedModel):
    """One of the two checkpoints of a comparison, loaded as users load it."""

    kept_columns: int | None = Field(default=None, description="of a sliced head; null: a plain one")
    head_bytes: int
    checkpoint_bytes: int
    seconds_per_token: Measured = Field(
        default=None, description="of decoding; null where a model cannot continue text"
    )
