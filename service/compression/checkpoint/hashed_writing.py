"""Write a new file, take its sha256 from the very buffers that are written, and bring it to the disk meanwhile.

Three things at once, since writing, hashing and syncing release the interpreter lock: the caller writes, a thread
hashes, another syncs. Nobody has to read the file again, and whoever syncs it at the end finds little left to do.
"""

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from service.foundation.hashed_files import HashedFile

PIECE_BYTES = 1 << 20  # stays in a core's cache until it is hashed; 8 MB cost the kernel twice as much
PIECES_AHEAD = 4  # written and not hashed yet
SYNC_BYTES = 64 << 20


class HashedWriter:
    """A context. Whatever fails in a thread is raised by a later `write` or by leaving; no thread outlives it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._buffers = cycle([memoryview(bytearray(PIECE_BYTES)) for _ in range(PIECES_AHEAD + 1)])
        self._hashing: deque[Future[None]] = deque()
        self._syncing: Future[None] | None = None
        self._unsynced = 0

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._hasher, self._syncer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file, self._syncer, self._hasher:  # left in turn: each waits for what it is doing
            under_way: list[Future[Any]] = [*self._hashing, *([self._syncing] if self._syncing else [])]
            for future in under_way:
                if raised is None:
                    future.result()
                else:
                    future.cancel()

    def buffer(self) -> memoryview:
        """PIECE_BYTES to be filled and written in one `write`; the next call gives another."""
        return next(self._buffers)

    def write(self, data: bytes | memoryview) -> None:
        """Write at most PIECE_BYTES; `data` must stay as it is for PIECES_AHEAD further writes, or to the end."""
        self._hashing.append(self._hasher.submit(self._digest.update, data))
        self._file.write(data)
        if len(self._hashing) > PIECES_AHEAD:
            self._hashing.popleft().result()
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            if self._syncing:
                self._syncing.result()
            self._syncing = self._syncer.submit(os.fdatasync, self._file.fileno())
            self._unsynced = 0

    def hashed(self) -> HashedFile:
        """The file's size and sha256, once the context has ended."""
        return HashedFile.of(self._path, self._digest.hexdigest())
