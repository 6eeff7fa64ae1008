"""What every kind of job is asked with: a model, a corpus, how to read it, labels. Validated once, at the edge.

Unknown fields are refused, numbers are never read from strings, NaN and infinities are no numbers.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from headroom.contract.webhook import Webhook

MODEL_ID_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
LABEL_KEY = re.compile(r"[A-Za-z0-9_.-]{1,63}")


class Strict(BaseModel):
    """Base of every recipe model: frozen, no unknown fields, no coercion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelReference(Strict):
    """`ns/name`, and for hub models an optional revision. A bare string is the id."""

    id: Annotated[str, Field(max_length=193)]
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_id(cls, data: object) -> object:
        return {"id": data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The bare string, too, is in the schema of what is accepted."""
        described = handler(schema)
        if handler.mode == "serialization":
            return described
        handler.resolve_ref_schema(described)["type"] = ["object", "string"]
        return described

    @field_validator("id")
    @classmethod
    def _is_repository_id(cls, value: str) -> str:
        parts = value.split("/")
        if len(parts) != 2 or not all(MODEL_ID_PART.fullmatch(part) for part in parts) or ".." in value:
            raise ValueError("a model id is 'namespace/name', of letters, digits, '_', '-' and '.'")
        return value


class InlineText(Strict):
    """A corpus sent with the job itself."""

    text: Annotated[str, Field(min_length=1, max_length=2_000_000)]


CorpusReference: TypeAlias = Annotated[str, Field(pattern=r"^corpus_[0-9a-f]{32}$")] | InlineText


class ReadingOptions(Strict):
    """How the corpus is read. Token counts are caps: a shorter corpus is used whole."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    window: Annotated[int, Field(ge=8, le=8192)] = 512
    calibration_tokens: Annotated[int, Field(ge=8, le=4_194_304)] = 16_384
    evaluation_tokens: Annotated[int, Field(ge=8, le=4_194_304)] = 32_768


class JobRecipe(Strict):
    """What the recipes of all kinds have. `kind` is the tag by which they are told apart."""

    kind: str
    model: ModelReference
    corpus: CorpusReference
    options: ReadingOptions = ReadingOptions()
    webhook: Webhook | None = None
    labels: Annotated[dict[str, Annotated[str, Field(max_length=255)]], Field(max_length=16)] = {}

    @property
    def other_models(self) -> tuple[ModelReference, ...]:
        """Models beside `model` that the job reads, in the order in which its engine gets them."""
        return ()

    @property
    def group_field(self) -> str | None:
        """The field of each JSON line that names the group of its text, where the job looks at groups."""
        return None

    @property
    def publish_as(self) -> str | None:
        """The model repository, `ns/name`, that the files are for; None: one named after the model and the job."""
        return None

    @property
    def shards(self) -> int:
        """Pieces that workers may share out among them; 1: the job is one piece."""
        return 1

    @property
    def corpora(self) -> tuple[CorpusReference, ...]:
        """Every text that the job reads, `corpus` first."""
        return (self.corpus,)

    def with_secret(self) -> Self:
        """The same with a new secret for a webhook that came without one."""
        if self.webhook is None or self.webhook.secret is not None:
            return self
        return self.model_copy(update={"webhook": self.webhook.with_new_secret()})

    def with_corpora(self, ids: Sequence[str]) -> Self:
        """The same with ids of stored corpora, in the order of `corpora`."""
        return self.model_copy(update={"corpus": ids[0]})

    @model_validator(mode="after")
    def _label_keys_are_plain(self) -> Self:
        if not all(LABEL_KEY.fullmatch(key) for key in self.labels):
            raise ValueError("label keys are 1-63 letters, digits, '_', '-' or '.'")
        return self
