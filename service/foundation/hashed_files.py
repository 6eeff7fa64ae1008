"""The sha256 of a file, and whether the file is still the one that was hashed: gigabytes are hashed only once."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class HashedFile:
    """Size and time of the last change are as the file had them when `sha256` was taken."""

    sha256: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, sha256: str) -> "HashedFile":
        """`sha256` was taken of what the file holds now."""
        found = path.stat()
        return cls(sha256, found.st_size, found.st_mtime_ns)

    def is_still(self, path: Path) -> bool:
        """Whether nothing was written to the file since."""
        found = path.stat()
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)


def hash_file(path: Path, on_bytes: Callable[[int], None]) -> HashedFile:
    """Read the whole file. `on_bytes` hears of every chunk, and may raise to stop the work."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return HashedFile(digest.hexdigest(), before.st_size, before.st_mtime_ns)
