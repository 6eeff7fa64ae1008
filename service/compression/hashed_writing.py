"""Write a new file and take its sha256 from the very buffers that are written, so that nobody has to read it again."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from service.hashed_files import HashedFile


class HashedWriter:
    """A context. The hash is taken in a thread beside the writing: both release the interpreter lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._pool = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *raised: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._pool.shutdown()
        self._file.close()

    def write(self, data: bytes | memoryview) -> None:
        """Returns when `data` is both written and hashed: the caller may fill its buffer anew."""
        hashing = self._pool.submit(self._digest.update, data)
        self._file.write(data)
        hashing.result()

    def hashed(self) -> HashedFile:
        """After the context."""
        return HashedFile.of(self._path, self._digest.hexdigest())
