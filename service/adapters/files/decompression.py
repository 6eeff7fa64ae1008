"""Undo the Content-Encoding of an upload as it comes in, without ever holding a bomb. No file, no network."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

import zstandard

from service.foundation.errors import CorpusNotText, CorpusTooLarge

MAX_RATIO = 200  # text compresses 3- to 20-fold; a bomb 1,000-fold and more
RATIO_FREE_BYTES = 1_000_000  # so that short, repetitive texts are not refused
STEP_BYTES = {  # given to the decoder at once, so that what comes out at once is small
    "identity": 65_536,
    "gzip": 2048,  # at most 1,032-fold: 2 MB
    "zstd": 128,  # a block of 4 bytes can stand for 128 KiB: 4 MiB
}
MAX_ZSTD_WINDOW_BYTES = 8 * 2**20  # what RFC 9659 allows for Content-Encoding


class Decoder(Protocol):
    """What zlib and zstandard decompression objects have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def decompressed(chunks: Iterable[bytes], encoding: str, max_bytes: int) -> Iterator[bytes]:
    """The decoded bytes of an upload. CorpusTooLarge over `max_bytes` or MAX_RATIO; CorpusNotText if it is damaged."""
    if encoding not in STEP_BYTES:
        raise CorpusNotText(f"Content-Encoding {encoding!r} is not known; use gzip, zstd or none")
    return _capped(chunks, encoding, max_bytes)


def _capped(chunks: Iterable[bytes], encoding: str, max_bytes: int) -> Iterator[bytes]:
    steps = _Steps(chunks, STEP_BYTES[encoding])
    produced = 0
    for piece in steps if encoding == "identity" else _decoded(steps, encoding):
        if not piece:
            continue
        produced += len(piece)
        if produced > max_bytes:
            raise CorpusTooLarge(f"the corpus is larger than {max_bytes:,} bytes; send a smaller one")
        if produced > max(RATIO_FREE_BYTES, MAX_RATIO * steps.bytes):
            raise CorpusTooLarge(f"the upload expands more than {MAX_RATIO}-fold; send it uncompressed")
        yield piece


class _Steps:
    """Chunks cut small, and how many bytes were given out so far."""

    def __init__(self, chunks: Iterable[bytes], size: int) -> None:
        self._chunks = chunks
        self._size = size
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            for start in range(0, len(chunk), self._size):
                step = chunk[start : start + self._size]
                self.bytes += len(step)
                yield step


def _decoded(steps: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Members (gzip) or frames (zstd) may follow each other; the last one must be complete."""
    decoder: Decoder | None = None
    for step in steps:
        rest = step
        while rest:
            decoder = decoder or _new_decoder(encoding)
            yield _decompress(decoder, rest, encoding)
            rest = b""
            if decoder.eof:
                rest, decoder = decoder.unused_data, None
    if decoder is not None:
        raise CorpusNotText(f"the {encoding} upload breaks off before its end; send it again")


def _new_decoder(encoding: str) -> Decoder:
    if encoding == "gzip":
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    return zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES).decompressobj()


def _decompress(decoder: Decoder, data: bytes, encoding: str) -> bytes:
    try:
        return decoder.decompress(data)
    except (zlib.error, zstandard.ZstdError) as error:
        raise CorpusNotText(
            f"the upload is not valid {encoding} ({error}); compress it again, or send it plain"
        ) from None
