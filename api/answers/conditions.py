"""Conditional and range requests (RFC 9110, sections 13 and 14), as pure functions of header values."""

import re
from dataclasses import dataclass

ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')
SINGLE_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,100})-([0-9]{0,100})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True)
class Slice:
    """Bytes `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


class Unsatisfiable:
    """The range is well-formed, but no byte of it is in the file."""


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether the client's copy is current (weak comparison, as If-None-Match wants)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in ENTITY_TAG.findall(if_none_match)


def slice_of(range_header: str | None, if_range: str | None, etag: str, size: int) -> Slice | Unsatisfiable | None:
    """The part of a file to send; None means all of it.

    A Range that is malformed, of another unit or of several parts is ignored, as is any whose If-Range does not hold:
    only an equal strong tag does, since files carry no date.
    """
    if range_header is None or (if_range is not None and if_range.strip() != etag):
        return None
    match = SINGLE_RANGE.fullmatch(range_header.strip())
    if match is None:
        return None
    first, last = match[1], match[2]
    if not first and not last:
        return None
    if not first:
        return _suffix(int(last), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        return Unsatisfiable()
    return Slice(start, min(int(last) + 1, size) if last else size)


def _suffix(length: int, size: int) -> Slice | Unsatisfiable | None:
    if length == 0:
        return Unsatisfiable()
    return Slice(max(size - length, 0), size) if size else None


def prefers(accept: str, media_type: str) -> bool:
    """Whether an Accept header names a type with a higher weight than JSON. `*/*` alone is no such wish."""
    weights: dict[str, float] = {}
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[name] = float(quality)
        except ValueError:
            weights[name] = 0.0
    return weights.get(media_type, 0.0) > weights.get("application/json", 0.0)
