"""An upload becomes a corpus: checked, hashed and named while it is written. Where it is kept is not decided here."""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from service.adapters.files.durable_files import FILE_MODE, age_seconds, make_folder
from service.adapters.files.text_check import JsonLinesCheck, PlainTextCheck
from service.foundation.errors import CorpusNotFound, CorpusTooLarge
from service.ports.files import Corpus
from service.ports.jobs import Clock

CORPUS_ID = re.compile(r"corpus_[0-9a-f]{32}")
DEFAULT_FIELD = "text"
ABANDONED_SECONDS = 86_400.0  # an upload this old belongs to a process that died


@contextmanager
def incoming_folder(root: Path) -> Iterator[Path]:
    """A new folder for one upload, removed in the end; those of dead processes go as well."""
    for folder in root.glob("*"):
        if age_seconds(folder) > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
    folder = make_folder(root / secrets.token_hex(8))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def receive(
    path: Path, chunks: Iterator[bytes], format: str, field: str | None, max_bytes: int, clock: Clock
) -> Corpus:
    """Write a new file, synced, and check and hash it in the same pass. Nothing is kept in memory but the present line.

    CorpusTooLarge, CorpusEmpty, CorpusNotText.
    """
    assert format in ("text", "jsonl"), format
    field = (field or DEFAULT_FIELD) if format == "jsonl" else None
    check = JsonLinesCheck(field) if field else PlainTextCheck()
    content, identity, size = hashlib.sha256(), hashlib.sha256(json.dumps([format, field]).encode() + b"\n"), 0
    with path.open("xb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise CorpusTooLarge(f"the corpus is larger than {max_bytes:,} bytes; send a smaller one")
            check.feed(chunk)
            content.update(chunk)
            identity.update(chunk)
            file.write(chunk)
        check.close()
        file.flush()
        os.fsync(file.fileno())
    corpus_id = f"corpus_{identity.hexdigest()[:32]}"
    return Corpus(corpus_id, content.hexdigest(), size, format, field, clock())


def record_of(corpus: Corpus) -> dict[str, Any]:
    """A corpus as JSON."""
    return asdict(corpus) | {"created": corpus.created.isoformat()}


def read_record(record: dict[str, Any]) -> Corpus:
    return Corpus(**(record | {"created": datetime.fromisoformat(record["created"])}))


def not_found(corpus_id: str) -> CorpusNotFound:
    return CorpusNotFound(f"there is no corpus {corpus_id!r}; upload it with POST /v1/corpora")
