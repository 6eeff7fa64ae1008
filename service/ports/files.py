"""Boundaries of files, as Protocols: what jobs publish, uploaded texts, what workers hand each other."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from service.foundation.errors import FileNotFound
from service.foundation.hashed_files import HashedFile


@dataclass(frozen=True)
class StoredFile:
    path: str  # relative, '/'-separated
    size: int
    sha256: str


def pick_file(job_id: str, files: list[StoredFile], path: str) -> StoredFile:
    """The one of a job's files with exactly this path; FileNotFound."""
    for file in files:
        if file.path == path:
            return file
    raise FileNotFound(f"job {job_id} has no file {path!r}; list its files to see their names")


def same_content(files: Iterable[StoredFile]) -> dict[tuple[str, str], StoredFile]:
    """The first of all files with one name and one content: a store has these once, under all their paths."""
    found: dict[tuple[str, str], StoredFile] = {}
    for file in files:
        found.setdefault((file.path.rpartition("/")[2], file.sha256), file)
    return found


NO_HASHES: Mapping[str, HashedFile] = {}


class ArtifactStore(Protocol):
    """Published files of jobs. Readers see all files of a job or none.

    Over an object store every method but `staging` may raise StorageUnavailable and StorageRefused.
    """

    def staging(self, job_id: str, attempt: int) -> Path:
        """An empty folder on this machine's disk for this attempt."""

    def publish(self, job_id: str, attempt: int, hashes: Mapping[str, HashedFile] = NO_HASHES) -> list[StoredFile]:
        """Make the files of the attempt's staging folder durable, then visible all at once; replaces nothing.
        If the job is published already, the staging folder is removed and the published files are listed.
        Files that are still what `hashes` says, by relative path, are not read to be hashed again."""

    def discard(self, job_id: str, attempt: int) -> None:
        """Remove a staging folder, if there is one, and what was stored from it without being published."""

    def discard_stale(self, keep: set[tuple[str, int]]) -> int:
        """Do so for attempts that are not in `keep`; returns how many. Also ends the removal of withdrawn files."""

    def withdraw(self, job_id: str) -> None:
        """Remove published files of a job, if any; a reader that has one open can read it to its end. Not while the
        job may go on: a later attempt adopts them."""

    def files(self, job_id: str) -> list[StoredFile]:
        """Sorted by path; empty when nothing is published."""

    def published_before(self, moment: datetime) -> list[str]:
        """Ids of jobs whose files were published before this moment."""

    def file(self, job_id: str, path: str) -> StoredFile:
        """FileNotFound unless `path` is exactly one of `files`."""

    def open(self, job_id: str, path: str, start: int = 0, end: int | None = None) -> BinaryIO:
        """One of `files`, from byte `start` on; nothing at or after `end` is wanted. FileNotFound."""

    def link(self, job_id: str, path: str) -> str | None:
        """A URL from which anybody can GET one of `files` for some minutes, if this store gives such links."""

    def ping(self) -> None:
        """Raise unless files could be stored and read now."""


@dataclass(frozen=True)
class Corpus:
    id: str  # "corpus_" + first 32 hex digits of sha256 over the decoded content
    sha256: str
    size: int  # bytes, decoded
    format: str  # "text" or "jsonl"
    field: str | None  # the field of each JSON line that holds the text
    created: datetime


class CorpusStore(Protocol):
    """Evaluation texts, content-addressed.

    Over an object store every method may raise StorageUnavailable and StorageRefused.
    """

    def add(self, chunks: Iterator[bytes], format: str, field: str | None) -> Corpus:
        """Store decoded bytes as they come. CorpusTooLarge, CorpusEmpty, CorpusNotText; DiskFull."""

    def get(self, corpus_id: str) -> Corpus:
        """CorpusNotFound if there is none."""

    def path(self, corpus_id: str) -> Path:
        """A file on this machine's disk with the content, fetched if need be. CorpusNotFound, DiskFull."""

    def all(self) -> list[Corpus]: ...

    def delete(self, corpus_id: str) -> None: ...


class ShardFiles(Protocol):
    """Files that the workers on one job hand to each other. They never change, and go when the job has ended.

    Over an object store every method may raise StorageUnavailable and StorageRefused.
    """

    def put(self, job_id: str, name: str, file: Path) -> None:
        """Moves `file` to where every worker can read it: there whole or not at all. DiskFull."""

    def get(self, job_id: str, name: str) -> Path | None:
        """A file on this machine's disk with the content, fetched if need be; None if there is none. DiskFull."""

    def share(self, job_id: str, name: str, file: Path) -> bool:
        """`put` without moving or copying: `file`, which must never change, gets a second name, which stands for its
        content. False, and nothing done, where that cannot be."""

    def drop(self, job_id: str, name: str) -> None:
        """Take that name away again. Whoever reads the file can read it to its end; unknown ones are ignored."""

    def jobs(self) -> set[str]:
        """Ids of the jobs of which there are files, or copies on this machine."""

    def remove(self, job_id: str) -> None:
        """All of a job. Unknown ones are ignored."""
