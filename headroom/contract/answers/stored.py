"""What a server keeps, as both sides of HTTP know it: published files, corpora, models."""

from datetime import datetime

from pydantic import Field

from headroom.contract.answers.answer import Answer


class FileView(Answer):
    """A published file: `path` is relative and '/'-separated."""

    path: str
    size: int
    sha256: str


class FileList(Answer):
    data: list[FileView]


class CorpusView(Answer):
    """An uploaded text."""

    id: str
    sha256: str
    size: int
    format: str
    field: str | None
    created: datetime


class CorpusList(Answer):
    data: list[CorpusView]


class ModelView(Answer):
    """A model that the server has on its disk, or made."""

    id: str
    kind: str = Field(description="`local`, or `output` of a job")
    job_id: str | None = None
    repository: str | None = Field(default=None, description="of an output: what the hub calls it")


class ModelList(Answer):
    data: list[ModelView]
