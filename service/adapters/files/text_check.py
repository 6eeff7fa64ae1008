"""Check a corpus as it streams by: UTF-8, no NUL, some text, and JSON lines where that is claimed. Stores nothing."""

import codecs
import json

from service.foundation.errors import CorpusEmpty, CorpusNotText

MAX_LINE_BYTES = 8_000_000  # a line is parsed whole, and JSON can take 25 times its size in memory


class PlainTextCheck:
    """Feed every chunk, then close; raises CorpusNotText or CorpusEmpty."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="strict")
        self._bytes = 0
        self._has_text = False

    def feed(self, chunk: bytes) -> None:
        self._see(chunk, final=False)

    def close(self) -> None:
        self._see(b"", final=True)
        if not self._has_text:
            raise CorpusEmpty("the corpus holds no text; send some")

    def _see(self, chunk: bytes, final: bool) -> None:
        if b"\0" in chunk:
            at = self._bytes + chunk.index(b"\0")
            raise CorpusNotText(f"the corpus has a NUL byte at position {at:,}; send plain UTF-8 text")
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError:
            around = f"{max(self._bytes - 3, 0):,} and {self._bytes + len(chunk):,}"
            raise CorpusNotText(f"the corpus is not UTF-8 between bytes {around}; convert it to UTF-8") from None
        self._bytes += len(chunk)
        self._has_text = self._has_text or _is_text(text)


class JsonLinesCheck:
    """Like PlainTextCheck, for lines that are JSON objects with a string in `field`, or in two with a comma between.

    Empty lines are skipped; messages name the line.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self._pending: list[bytes] = []  # pieces of the line under way
        self._pending_bytes = 0
        self._line = 0
        self._has_text = False

    def feed(self, chunk: bytes) -> None:
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            self._hold(line)
            self._see(b"".join(self._pending))
            self._pending, self._pending_bytes = [], 0
        self._hold(rest)

    def close(self) -> None:
        self._see(b"".join(self._pending))
        if not self._has_text:
            raise CorpusEmpty(f"no line has any text in {self._field!r}; send some")

    def _hold(self, piece: bytes) -> None:
        self._pending.append(piece)
        self._pending_bytes += len(piece)
        if self._pending_bytes > MAX_LINE_BYTES:
            self._line += 1
            raise self._refused(f"is longer than {MAX_LINE_BYTES:,} bytes")

    def _see(self, line: bytes) -> None:
        self._line += 1
        if self._line == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            return
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError:
            raise self._refused("is not UTF-8") from None
        except (ValueError, RecursionError):
            raise self._refused("is not JSON") from None
        for field in self._field.split(","):
            text = record.get(field) if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise self._refused(f"is not an object with a string in {field!r}")
            if "\0" in text or not _is_encodable(text):
                raise self._refused("has a NUL or half a surrogate pair in its text")
            self._has_text = self._has_text or _is_text(text)

    def _refused(self, reason: str) -> CorpusNotText:
        return CorpusNotText(f"line {self._line:,} of the corpus {reason}; every line must be a JSON object")


def _is_text(text: str) -> bool:
    return bool(text.lstrip("\ufeff").strip())


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
