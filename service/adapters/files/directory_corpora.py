"""DirectoryCorpora: evaluation texts in a folder, named by their content. Undoing compression is decompression.py's.

root/<corpus id>/{content,corpus.json} appears whole, by rename; root/incoming/ holds uploads under way.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from service.adapters.files.durable_files import disk_full_is_typed, make_folder, sync, write_synced
from service.adapters.files.received_corpus import (
    CORPUS_ID,
    incoming_folder,
    not_found,
    read_record,
    receive,
    record_of,
)
from service.foundation.errors import CorpusNotFound
from service.ports.files import Corpus
from service.ports.jobs import Clock


class DirectoryCorpora:
    """file_ports.CorpusStore below one folder; several processes may share it."""

    def __init__(self, root: Path, max_bytes: int, clock: Clock) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._max_bytes = max_bytes
        self._clock = clock

    def add(self, chunks: Iterator[bytes], format: str, field: str | None) -> Corpus:
        """Store a text. Of equal content, format and field the corpus that was there first is given, with its id."""
        with disk_full_is_typed("storing the corpus"), incoming_folder(self._incoming) as folder:
            corpus = receive(folder / "content", chunks, format, field, self._max_bytes, self._clock)
            return self._stored(folder, corpus)

    def get(self, corpus_id: str) -> Corpus:
        try:
            record = json.loads((self._folder(corpus_id) / "corpus.json").read_bytes())
        except FileNotFoundError:
            raise not_found(corpus_id) from None
        return read_record(record)

    def path(self, corpus_id: str) -> Path:
        path = self._folder(corpus_id) / "content"
        if not path.is_file():
            raise not_found(corpus_id)
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
            raise not_found(corpus_id) from None
        shutil.rmtree(trash, ignore_errors=True)

    def _folder(self, corpus_id: str) -> Path:
        if not CORPUS_ID.fullmatch(corpus_id):
            raise not_found(corpus_id)
        return self._root / corpus_id

    def _stored(self, folder: Path, corpus: Corpus) -> Corpus:
        write_synced(folder / "corpus.json", json.dumps(record_of(corpus)).encode())
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
