"""What every CorpusStore promises: content-addressed, checked as it streams, there as a whole or not at all."""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.adapters.files.bucket import Bucket
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.files.object_corpora import ObjectCorpora
from service.foundation.errors import CorpusEmpty, CorpusNotFound, CorpusNotText, CorpusTooLarge, DiskFull
from service.ports.files import CorpusStore

TEXT = "Käse und Brot\n".encode()


class Ticking:
    """A clock that moves one second with each look."""

    def __init__(self) -> None:
        self.now = datetime(2100, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture(params=["directory", "s3"])
def corpora(request: pytest.FixtureRequest, tmp_path: Path) -> CorpusStore:
    if request.param == "directory":
        return DirectoryCorpora(tmp_path / "corpora", max_bytes=10_000, clock=Ticking())
    bucket = Bucket(request.getfixturevalue("bucket_url"))
    return ObjectCorpora(bucket, tmp_path / "corpora" / "incoming", tmp_path / "cache", 10_000, Ticking())


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "corpora" / "incoming").iterdir())


def bytewise(content: bytes) -> Iterator[bytes]:
    return (content[at : at + 1] for at in range(len(content)))


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.mark.parametrize("format", ["text", "jsonl"])
def test_a_corpus_may_begin_with_a_byte_order_mark(corpora: CorpusStore, format: str) -> None:
    sent = b"\xef\xbb\xbf" + (TEXT if format == "text" else lines({"text": "one"}, {"text": "two"}))

    corpus = corpora.add(bytewise(sent), format, None)

    assert corpora.path(corpus.id).read_bytes() == sent


def test_a_text_comes_back_as_it_was_sent(corpora: CorpusStore) -> None:
    corpus = corpora.add(bytewise(TEXT), "text", None)

    assert corpora.path(corpus.id).read_bytes() == TEXT
    assert (corpus.size, corpus.format, corpus.field) == (len(TEXT), "text", None)
    assert corpus.sha256 == hashlib.sha256(TEXT).hexdigest()
    assert corpora.get(corpus.id) == corpus


def test_the_same_content_is_stored_once_and_keeps_its_first_date(corpora: CorpusStore, tmp_path: Path) -> None:
    first = corpora.add(iter([TEXT]), "text", None)

    assert corpora.add(bytewise(TEXT), "text", "ignored") == first
    assert corpora.all() == [first]
    assert leftovers(tmp_path) == []


def test_the_same_bytes_read_in_another_way_are_another_corpus(corpora: CorpusStore) -> None:
    content = lines({"text": "a", "title": "b"})

    ids = {
        corpora.add(iter([content]), "text", None).id,
        corpora.add(iter([content]), "jsonl", "text").id,
        corpora.add(iter([content]), "jsonl", "title").id,
    }

    assert len(ids) == 3


def test_the_id_follows_from_content_format_and_field_alone(tmp_path: Path) -> None:
    ids = {
        DirectoryCorpora(tmp_path / name, 10_000, Ticking()).add(iter([TEXT]), "text", None).id for name in ("a", "b")
    }

    assert len(ids) == 1


def test_corpora_are_listed_newest_first(corpora: CorpusStore) -> None:
    first = corpora.add(iter([b"one"]), "text", None)
    second = corpora.add(iter([b"two"]), "text", None)

    assert corpora.all() == [second, first]


def test_a_store_that_was_never_used_lists_nothing(corpora: CorpusStore) -> None:
    assert corpora.all() == []


def test_a_deleted_corpus_is_gone_and_can_come_again(corpora: CorpusStore) -> None:
    corpus = corpora.add(iter([TEXT]), "text", None)

    corpora.delete(corpus.id)

    for call in (corpora.get, corpora.path, corpora.delete):
        with pytest.raises(CorpusNotFound):
            call(corpus.id)
    assert corpora.add(iter([TEXT]), "text", None).id == corpus.id


@pytest.mark.parametrize(
    "corpus_id", ["", "..", "corpus_..", "incoming", "corpus_" + "0" * 32, "corpus_" + "0" * 32 + "/x", "\0"]
)
def test_an_unknown_or_odd_id_is_not_found(corpora: CorpusStore, corpus_id: str) -> None:
    for call in (corpora.get, corpora.path, corpora.delete):
        with pytest.raises(CorpusNotFound):
            call(corpus_id)


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\xef\xbb\xbf", "\u2003\u00a0".encode()])
def test_a_corpus_without_text_is_refused(corpora: CorpusStore, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CorpusEmpty):
        corpora.add(bytewise(content), "text", None)
    assert corpora.all() == leftovers(tmp_path) == []


@pytest.mark.parametrize("content", [b"caf\xe9 au lait", b"ok\xff", "Käse".encode()[:2], b"\xed\xa0\x80", b"a\0b"])
def test_what_is_not_utf8_text_is_refused(corpora: CorpusStore, tmp_path: Path, content: bytes) -> None:
    for chunks in (bytewise(content), iter([content])):
        with pytest.raises(CorpusNotText):
            corpora.add(chunks, "text", None)
    assert corpora.all() == leftovers(tmp_path) == []


def test_json_lines_are_stored_as_they_are(corpora: CorpusStore) -> None:
    content = lines({"text": "a"}, {"text": "", "n": 1}) + b'\r\n\n{"text": "no newline at the end"}'

    for chunks in (bytewise(content), iter([content])):
        corpus = corpora.add(chunks, "jsonl", None)
    assert (corpus.format, corpus.field) == ("jsonl", "text")
    assert corpora.path(corpus.id).read_bytes() == content


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"[1]",
        b'"text"',
        b'{"title": "x"}',
        b'{"text": 1}',
        b'{"text": null}',
        b'{"text": "\xff"}',
        b"[" * 9000,
        rb'{"text": "\ud800"}',
        rb'{"text": "\u0000"}',
    ],
)
def test_a_line_that_is_not_an_object_with_the_field_is_named(corpora: CorpusStore, bad: bytes) -> None:
    content = lines({"text": "a"}) + bad + b"\n" + lines({"text": "b"})

    for chunks in (bytewise(content), iter([content])):
        with pytest.raises(CorpusNotText, match="line 2 "):
            corpora.add(chunks, "jsonl", "text")


def test_two_fields_name_pairs_and_every_line_needs_both(corpora: CorpusStore) -> None:
    assert corpora.add(iter([lines({"q": "a", "a": "b"})]), "jsonl", "q,a").field == "q,a"
    with pytest.raises(CorpusNotText, match=r"line 2 .*'a'"):
        corpora.add(iter([lines({"q": "a", "a": "b"}, {"q": "c"})]), "jsonl", "q,a")


def test_json_lines_without_any_text_are_refused(corpora: CorpusStore) -> None:
    with pytest.raises(CorpusEmpty):
        corpora.add(iter([lines({"text": " "}, {"text": ""})]), "jsonl", "text")


def test_an_overlong_json_line_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    corpora = DirectoryCorpora(tmp_path, max_bytes=20_000_000, clock=Ticking())

    with pytest.raises(CorpusNotText, match="line 2 "):
        corpora.add(
            iter([lines({"text": "a"}), b"{}," * 1_000_000, b"{}," * 1_000_000, b"{}," * 1_000_000]), "jsonl", "text"
        )


def test_a_corpus_over_the_cap_is_refused_while_it_streams(corpora: CorpusStore, tmp_path: Path) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"abc " * 100

    with pytest.raises(CorpusTooLarge):
        corpora.add(endless(), "text", None)
    assert corpora.add(iter([b"x" * 10_000]), "text", None).size == 10_000
    assert leftovers(tmp_path) == []


def test_an_upload_that_breaks_off_leaves_nothing(corpora: CorpusStore, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield TEXT
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        corpora.add(broken(), "text", None)
    assert corpora.all() == leftovers(tmp_path) == []


def test_uploads_of_dead_processes_are_cleared_after_a_day(corpora: CorpusStore, tmp_path: Path) -> None:
    old, young = (tmp_path / "corpora" / "incoming" / name for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))

    corpora.add(iter([TEXT]), "text", None)

    assert leftovers(tmp_path) == [young]


def test_a_full_disk_is_named_and_leaves_nothing(
    corpora: CorpusStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DiskFull):
            corpora.add(iter([TEXT]), "text", None)
    assert corpora.all() == leftovers(tmp_path) == []


def test_many_uploads_of_one_content_at_once_give_one_corpus(corpora: CorpusStore, tmp_path: Path) -> None:
    start, found = threading.Barrier(8), []

    def upload() -> None:
        start.wait()
        found.append(corpora.add(bytewise(TEXT), "text", None))

    threads = [threading.Thread(target=upload) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1
    assert corpora.all() == found[:1]
    assert leftovers(tmp_path) == []
