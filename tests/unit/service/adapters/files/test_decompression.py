"""Uploads come apart as they went together; bombs and broken ones are refused before they take memory."""

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard

from service.adapters.files.decompression import MAX_RATIO, RATIO_FREE_BYTES, decompressed
from service.foundation.errors import CorpusNotText, CorpusTooLarge

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": lambda content: content,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
WORDS = "the quick brown fox jumps over a lazy dog and häl".split()
TEXT = " ".join(random.Random(0).choices(WORDS, k=100_000)).encode()


def cut(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


@pytest.mark.parametrize("size", [1, 7, 4096, 10**9])
@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_text_comes_back_however_it_is_cut(encoding: str, size: int) -> None:
    text = TEXT if size > 7 else TEXT[:2000]

    assert b"".join(decompressed(cut(COMPRESS[encoding](text), size), encoding, 10**7)) == text


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_parts_may_follow_each_other(encoding: str) -> None:
    content = COMPRESS[encoding](b"first ") + COMPRESS[encoding](b"") + COMPRESS[encoding](b"second")

    for size in (1, 5, 1000):
        assert b"".join(decompressed(cut(content, size), encoding, 100)) == b"first second"


@pytest.mark.parametrize("encoding", COMPRESS)
def test_an_empty_upload_is_an_empty_text(encoding: str) -> None:
    assert b"".join(decompressed(iter([]), encoding, 100)) == b""
    assert b"".join(decompressed(iter([b"", COMPRESS[encoding](b"")]), encoding, 100)) == b""


@pytest.mark.parametrize("encoding", COMPRESS)
def test_the_cap_is_on_what_comes_out(encoding: str) -> None:
    content = COMPRESS[encoding](TEXT)

    assert len(b"".join(decompressed(cut(content, 100), encoding, len(TEXT)))) == len(TEXT)
    with pytest.raises(CorpusTooLarge):
        b"".join(decompressed(cut(content, 100), encoding, len(TEXT) - 1))


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_an_upload_that_breaks_off_is_refused(encoding: str) -> None:
    content = COMPRESS[encoding](TEXT)

    for end in (3, len(content) // 2, len(content) - 1):
        with pytest.raises(CorpusNotText, match="breaks off"):
            b"".join(decompressed(cut(content[:end], 100), encoding, 10**7))


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_what_is_not_compressed_that_way_is_refused(encoding: str) -> None:
    damaged = bytearray(COMPRESS[encoding](TEXT))
    damaged[len(damaged) // 2] ^= 0xFF
    for content in (TEXT, bytes(damaged), COMPRESS[encoding](b"ok") + b"tail", zlib.compress(TEXT)):
        with pytest.raises(CorpusNotText):
            b"".join(decompressed(cut(content, 1000), encoding, 10**7))


@pytest.mark.parametrize("encoding", ["br", "deflate", "GZIP", ""])
def test_an_unknown_encoding_is_refused_at_once(encoding: str) -> None:
    with pytest.raises(CorpusNotText, match="gzip, zstd"):
        decompressed(iter([TEXT]), encoding, 10**7)


def test_a_zstd_window_over_8_mib_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    streamed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = streamed.compress(TEXT) + streamed.flush()

    with pytest.raises(CorpusNotText):
        b"".join(decompressed(iter([content]), "zstd", 10**7))


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_refused_while_it_is_small(encoding: str) -> None:
    bomb = COMPRESS[encoding](b" " * 60_000_000)
    produced: list[int] = []

    tracemalloc.start()
    try:
        with pytest.raises(CorpusTooLarge, match=f"{MAX_RATIO}-fold"):
            produced.extend(len(piece) for piece in decompressed(iter([bomb]), encoding, 10**9))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert sum(produced) <= RATIO_FREE_BYTES
    assert peak < 20_000_000


def test_a_short_repetitive_text_is_no_bomb() -> None:
    text = b"a line\n" * (RATIO_FREE_BYTES // 7)

    assert b"".join(decompressed(iter([gzip.compress(text)]), "gzip", 10**7)) == text
