"""DirectoryCorpora: evaluation texts in a folder, named by their content. Undoing compression is decompression.py's.

root/<corpus id>/{content,corpus.json} appears whole, by rename; root/incoming/ holds uploads under way.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from service.adapters.durable_files import FILE_MODE, age_seconds, disk_full_is_typed, make_folder, sync, write_synced
from service.adapters.text_check import JsonLinesCheck, PlainTextCheck
from service.errors import CorpusNotFound, CorpusTooLarge
from service.ports import Clock, Corpus

CORPUS_ID = re.compile(r"corpus_[0-9a-f]{32}")
DEFAULT_FIELD = "text"
ABANDONED_SECONDS = 86_400.0  # an upload this old belongs to a process that died


class DirectoryCorpora:
    """ports.CorpusStore below one folder; several processes may share it."""

    def __init__(self, root: Path, max_bytes: int, clock: Clock) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._max_bytes = max_bytes
        self._clock = clock

    def add(self, chunks: Iterator[bytes], format: str, field: str | None) -> Corpus:
        """The same content, format and field give the same id and the corpus that was there first."""
        assert format in ("text", "jsonl"), format
        field = (field or DEFAULT_FIELD) if format == "jsonl" else None
        with disk_full_is_typed("storing the corpus"):
            self._remove_abandoned()
            folder = make_folder(self._incoming / secrets.token_hex(8))
            try:
                return self._stored(folder, self._received(folder / "content", chunks, format, field))
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def get(self, corpus_id: str) -> Corpus:
        try:
            record = json.loads((self._folder(corpus_id) / "corpus.json").read_bytes())
        except FileNotFoundError:
            raise _not_found(corpus_id) from None
        return Corpus(**(record | {"created": datetime.fromisoformat(record["created"])}))

    def path(self, corpus_id: str) -> Path:
        path = self._folder(corpus_id) / "content"
        if not path.is_file():
            raise _not_found(corpus_id)
        return path

    def all(self) -> list[Corpus]:
        """Newest first."""
        found = []
        for folder in self._root.glob("corpus_*"):
            try:
                found.append(self.get(folder.name))
            except CorpusNotFound:
                continue  # deleted meanwhile
        return sorted(found, key=lambda corpus: (corpus.created, corpus.id), reverse=True)

    def delete(self, corpus_id: str) -> None:
        trash = make_folder(self._incoming) / secrets.token_hex(8)
        try:
            os.rename(self._folder(corpus_id), trash)
        except FileNotFoundError:
            raise _not_found(corpus_id) from None
        shutil.rmtree(trash, ignore_errors=True)

    def _folder(self, corpus_id: str) -> Path:
        if not CORPUS_ID.fullmatch(corpus_id):
            raise _not_found(corpus_id)
        return self._root / corpus_id

    def _received(self, path: Path, chunks: Iterator[bytes], format: str, field: str | None) -> Corpus:
        """Write, hash and check in one pass. Nothing is kept in memory but the present line."""
        check = JsonLinesCheck(field) if field else PlainTextCheck()
        content, identity, size = hashlib.sha256(), hashlib.sha256(json.dumps([format, field]).encode() + b"\n"), 0
        with path.open("xb") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            for chunk in chunks:
                size += len(chunk)
                if size > self._max_bytes:
                    raise CorpusTooLarge(f"the corpus is larger than {self._max_bytes:,} bytes; send a smaller one")
                check.feed(chunk)
                content.update(chunk)
                identity.update(chunk)
                file.write(chunk)
            check.close()
            file.flush()
            os.fsync(file.fileno())
        corpus_id = f"corpus_{identity.hexdigest()[:32]}"
        return Corpus(corpus_id, content.hexdigest(), size, format, field, self._clock())

    def _stored(self, folder: Path, corpus: Corpus) -> Corpus:
        record = asdict(corpus) | {"created": corpus.created.isoformat()}
        write_synced(folder / "corpus.json", json.dumps(record).encode())
        sync(folder)
        while True:
            try:
                os.rename(folder, self._folder(corpus.id))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                with suppress(CorpusNotFound):  # deleted meanwhile
                    return self.get(corpus.id)  # it was there first: rename never replaces a folder with content
            else:
                sync(self._root)
                return corpus

    def _remove_abandoned(self) -> None:
        for folder in self._incoming.glob("*"):
            if age_seconds(folder) > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _not_found(corpus_id: str) -> CorpusNotFound:
    return CorpusNotFound(f"there is no corpus {corpus_id!r}; upload it with POST /v1/corpora")
