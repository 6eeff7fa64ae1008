"""Keep the caches of this machine below their limits: what was used longest ago goes first. Reads no entry.

An entry is a folder or file right below a cache; its time is that of its last use. One that is in use is held by a
shared lock on it (service/compression/states/hidden_cache.py), or named by the caller, and stays.
"""

import fcntl
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

ABANDONED_SECONDS = 86_400.0  # what a process that died was writing


def limit_cache(root: Path, max_bytes: int, in_use: Callable[[], set[str]]) -> int:
    """Bytes that were freed. `in_use`: names of entries to keep, asked for only if something has to go."""
    entries = sorted(_entries(root), key=lambda entry: entry.stat().st_mtime)
    sizes = {entry: _size(entry) for entry in entries}
    excess = sum(sizes.values()) - max_bytes
    if not max_bytes or excess <= 0:
        return 0
    kept, freed = in_use(), 0
    for entry in entries:
        if freed < excess and entry.name not in kept and _remove(entry):
            freed += sizes[entry]
    logger.info("%s was over its limit: %d bytes removed", root, freed)
    return freed


def _entries(root: Path) -> list[Path]:
    """Those that are whole; half ones of dead processes go."""
    found = []
    for entry in root.glob("*"):
        if not entry.name.startswith("."):
            found.append(entry)
        elif entry.name != ".locks" and time.time() - entry.stat().st_mtime > ABANDONED_SECONDS:
            _delete(entry)
    return found


def _size(entry: Path) -> int:
    inner = (Path(parent, name) for parent, _, names in os.walk(entry) for name in names)
    return sum(file.lstat().st_size for file in ([entry] if entry.is_file() else inner))


def _remove(entry: Path) -> bool:
    """Out of sight first, so that nobody meets half of it. False if somebody holds it."""
    trash = entry.with_name(f".trash-{secrets.token_hex(8)}")
    descriptor = os.open(entry, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(entry, trash)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    _delete(trash)
    return True


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
