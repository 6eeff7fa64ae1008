"""Files that are wholly there or not at all, also after a power cut. Knows nothing of jobs or corpora."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.foundation.errors import DiskFull

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
FILE_MODE = 0o644
FOLDER_MODE = 0o755


@contextmanager
def disk_full_is_typed(what: str) -> Iterator[None]:
    """Turn ENOSPC and an exhausted quota into DiskFull; any other OSError passes."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(f"no space left on the disk while {what}; free some and try again") from error
        raise


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and sync it; the caller makes it visible by renaming a folder above it."""
    with path.open("xb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, readable by everyone."""
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    return path


def age_seconds(folder: Path) -> float:
    """Since the last file in it was made or removed; 0 when it has gone meanwhile."""
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
