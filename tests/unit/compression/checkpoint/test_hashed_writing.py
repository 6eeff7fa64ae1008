"""Writing, hashing and syncing at once: bytes and hash as one after another; no error is lost, no thread is left."""

import errno
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.compression.checkpoint import hashed_writing
from service.compression.checkpoint.hashed_writing import PIECE_BYTES, PIECES_AHEAD, HashedWriter


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def disk_full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_pieces(path: Path, count: int) -> HashedWriter:
    with HashedWriter(path) as out:
        for number in range(count):
            buffer = out.buffer()
            buffer[:] = bytes([number]) * PIECE_BYTES
            out.write(buffer)
    return out


def test_what_was_written_is_what_was_hashed_though_buffers_are_used_again(tmp_path: Path) -> None:
    count = 4 * PIECES_AHEAD
    out = write_pieces(tmp_path / "file", count)
    content = (tmp_path / "file").read_bytes()
    assert content == b"".join(bytes([number]) * PIECE_BYTES for number in range(count))
    assert out.hashed().sha256 == hashlib.sha256(content).hexdigest()
    assert out.hashed().size == len(content)


def test_a_hasher_that_is_late_never_sees_a_buffer_filled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, turn = hashlib.sha256(), threading.Event()

    class Late:
        def update(self, data: memoryview) -> None:
            turn.wait(0.005)
            digest.update(data)

    monkeypatch.setattr(hashed_writing.hashlib, "sha256", Late)
    write_pieces(tmp_path / "file", 3 * PIECES_AHEAD)
    assert digest.hexdigest() == hashlib.new("sha256", (tmp_path / "file").read_bytes()).hexdigest()


def test_what_was_written_is_on_its_way_to_the_disk_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    monkeypatch.setattr(hashed_writing, "SYNC_BYTES", 2 * PIECE_BYTES)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.set())
    with HashedWriter(tmp_path / "file") as out:
        out.write(out.buffer())
        assert not synced.wait(0.05)
        out.write(out.buffer())
        assert synced.wait(10)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux'")
def test_an_error_of_writing_is_raised() -> None:
    with pytest.raises(OSError, match="No space left"), HashedWriter(Path("/dev/full")) as out:
        out.write(out.buffer())


@pytest.mark.parametrize("pieces", [2, 3 * PIECES_AHEAD])
def test_an_error_of_hashing_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    class Broken:
        def update(self, data: memoryview) -> None:
            raise MemoryError

    monkeypatch.setattr(hashed_writing.hashlib, "sha256", Broken)
    with pytest.raises(MemoryError):
        write_pieces(tmp_path / "file", pieces)


@pytest.mark.parametrize("pieces", [2, 8])
def test_an_error_of_syncing_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    monkeypatch.setattr(hashed_writing, "SYNC_BYTES", 2 * PIECE_BYTES)
    monkeypatch.setattr(os, "fdatasync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_pieces(tmp_path / "file", pieces)


@pytest.mark.parametrize("syncing", [lambda descriptor: None, disk_full])
def test_the_error_of_the_caller_is_the_one_that_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncing: Callable[[int], None]
) -> None:
    monkeypatch.setattr(hashed_writing, "SYNC_BYTES", PIECE_BYTES)
    monkeypatch.setattr(os, "fdatasync", syncing)

    def write_and_fail() -> None:
        with HashedWriter(tmp_path / "file") as out:
            out.write(out.buffer())
            raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        write_and_fail()
