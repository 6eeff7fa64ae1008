"""ObjectCorpora: evaluation texts in an object store, named by their content.

corpora/contents/<id>.<token>    the text; each upload under a name of its own
corpora/records/<id>.json        what is known of it, and which of these names holds it: put last, if there is none

A machine that reads one keeps a copy: cache/<id>.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.adapters.files.bucket import READ_BYTES, Bucket
from service.adapters.files.durable_files import FILE_MODE, disk_full_is_typed, make_folder
from service.adapters.files.received_corpus import (
    ABANDONED_SECONDS,
    CORPUS_ID,
    incoming_folder,
    not_found,
    read_record,
    receive,
    record_of,
)
from service.foundation.errors import InternalError
from service.ports.files import Corpus
from service.ports.jobs import Clock

CONTENTS = "corpora/contents/"
RECORDS = "corpora/records/"
PARALLEL = 8


class ObjectCorpora:
    """file_ports.CorpusStore over a bucket. incoming, cache: folders of this machine alone."""

    def __init__(self, bucket: Bucket, incoming: Path, cache: Path, max_bytes: int, clock: Clock) -> None:
        self._bucket = bucket
        self._incoming = incoming
        self._cache = cache
        self._max_bytes = max_bytes
        self._clock = clock

    def add(self, chunks: Iterator[bytes], format: str, field: str | None) -> Corpus:
        """Store a text. Of equal content, format and field the corpus that was there first is given, with its id."""
        with disk_full_is_typed("storing the corpus"), incoming_folder(self._incoming) as folder:
            corpus = receive(folder / "content", chunks, format, field, self._max_bytes, self._clock)
            return self._stored(folder / "content", corpus)

    def get(self, corpus_id: str) -> Corpus:
        return self._record(corpus_id)[0]

    def path(self, corpus_id: str) -> Path:
        corpus, key = self._record(corpus_id)
        copy = self._cache / corpus.id
        if copy.is_file() and copy.stat().st_size == corpus.size:
            with suppress(OSError):
                os.utime(copy)  # when it was last asked for
            return copy
        with disk_full_is_typed("fetching the corpus"):
            self._fetch(corpus, key, copy)
        return copy

    def all(self) -> list[Corpus]:
        """Newest first."""
        ids = [entry.key.rpartition("/")[2].removesuffix(".json") for entry in self._bucket.entries(RECORDS)]
        with ThreadPoolExecutor(PARALLEL) as pool:
            records = list(pool.map(self._read, ids))
        corpora = [found[0] for found in records if found]  # the others were deleted meanwhile
        return sorted(corpora, key=lambda corpus: (corpus.created, corpus.id), reverse=True)

    def delete(self, corpus_id: str) -> None:
        corpus, key = self._record(corpus_id)
        self._bucket.delete(f"{RECORDS}{corpus.id}.json")
        self._bucket.delete(key)

    def _stored(self, path: Path, corpus: Corpus) -> Corpus:
        if known := self._read(corpus.id):
            return known[0]
        self._remove_abandoned()
        key = f"{CONTENTS}{corpus.id}.{secrets.token_hex(8)}"
        self._bucket.upload(key, path, {"Content-Type": "text/plain; charset=utf-8", "sha256": corpus.sha256})
        record = record_of(corpus) | {"object": key}
        while not self._bucket.create(f"{RECORDS}{corpus.id}.json", json.dumps(record).encode()):
            if known := self._read(corpus.id):  # else it was deleted meanwhile
                self._bucket.delete(key)
                return known[0]
        return corpus

    def _fetch(self, corpus: Corpus, key: str, copy: Path) -> None:
        temporary = make_folder(self._cache) / f".{corpus.id}-{secrets.token_hex(8)}"
        digest = hashlib.sha256()
        try:
            with temporary.open("xb") as file, self._bucket.open(key, 0, corpus.size) as content:
                os.fchmod(file.fileno(), FILE_MODE)
                while chunk := content.read(READ_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != corpus.sha256:
                raise InternalError(f"the stored text of {corpus.id} is damaged; delete it and upload it again")
            os.replace(temporary, copy)
        except FileNotFoundError:
            raise not_found(corpus.id) from None  # deleted just now
        finally:
            temporary.unlink(missing_ok=True)

    def _record(self, corpus_id: str) -> tuple[Corpus, str]:
        found = self._read(corpus_id)
        if found is None:
            raise not_found(corpus_id)
        return found

    def _read(self, corpus_id: str) -> tuple[Corpus, str] | None:
        """The corpus and the name of the object with its text."""
        content = self._bucket.read(f"{RECORDS}{corpus_id}.json") if CORPUS_ID.fullmatch(corpus_id) else None
        if content is None:
            return None
        record: dict[str, Any] = json.loads(content)
        key: str = record.pop("object")
        return read_record(record), key

    def _remove_abandoned(self) -> None:
        """Texts without a record, of uploads that broke off."""
        now = datetime.now(UTC)
        old = [
            entry.key
            for entry in self._bucket.entries(CONTENTS)
            if (now - entry.modified).total_seconds() > ABANDONED_SECONDS
        ]
        named = {found[1] for key in old if (found := self._read(key.removeprefix(CONTENTS).partition(".")[0]))}
        self._bucket.delete(*(key for key in old if key not in named))
