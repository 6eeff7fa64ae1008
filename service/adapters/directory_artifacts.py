"""DirectoryArtifacts: published files in a folder. No database here: who may publish is decided by the job's fence.

root/staging/<job>/<attempt>/files/...      written by one attempt
root/published/<job>/files/...              renamed from there, whole
root/published/<job>/manifest.json          attempt, and path, size and sha256 of each file
root/lock                                   held for the few renames of a publication, never while hashing
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.adapters.durable_files import (
    FILE_MODE,
    FOLDER_MODE,
    age_seconds,
    disk_full_is_typed,
    make_folder,
    sync,
    write_synced,
)
from service.errors import FileNotFound, InternalError
from service.ports import StoredFile

JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
FILES = "files"
MANIFEST = "manifest.json"


class DirectoryArtifacts:
    """ports.ArtifactStore below one folder; several processes and hosts may share it.

    grace_seconds: a younger staging folder is never stale, since its attempt may have begun after `keep` was read.
    """

    def __init__(self, root: Path, grace_seconds: float = 10.0) -> None:
        self._root = root
        self._grace_seconds = grace_seconds

    def staging(self, job_id: str, attempt: int) -> Path:
        folder = self._staged(job_id, attempt)
        with disk_full_is_typed("making a staging folder"):
            shutil.rmtree(folder, ignore_errors=True)
            return make_folder(folder / FILES)

    def publish(self, job_id: str, attempt: int) -> list[StoredFile]:
        staged, published = self._staged(job_id, attempt), self._published(job_id)
        if not published.exists():
            with disk_full_is_typed("publishing the result"):
                self._seal(job_id, attempt, staged)
                _rename_to_new(staged, published)
        self.discard(job_id, attempt)
        return self.files(job_id)

    def discard(self, job_id: str, attempt: int) -> None:
        _remove(self._staged(job_id, attempt))

    def discard_stale(self, keep: set[tuple[str, int]]) -> int:
        kept = {self._staged(job_id, attempt) for job_id, attempt in keep}
        stale = [
            folder
            for folder in (self._root / "staging").glob("*")
            if folder not in kept and age_seconds(folder) >= self._grace_seconds
        ]
        for folder in stale:
            _remove(folder)
        return len(stale)

    def withdraw(self, job_id: str) -> None:
        """Rename first: no reader sees a half-removed publication."""
        trash = make_folder(self._root / "staging") / f"{job_id}.withdrawn-{time.time_ns()}"
        with suppress(FileNotFoundError):
            os.rename(self._published(job_id), trash)
            shutil.rmtree(trash)

    def files(self, job_id: str) -> list[StoredFile]:
        return [StoredFile(**entry) for entry in self._manifest(job_id).get("files", [])]

    def open(self, job_id: str, path: str) -> tuple[StoredFile, Path]:
        """`path` is only compared with the manifest; it never becomes part of a path before it was found there."""
        for file in self.files(job_id):
            if file.path == path:
                return file, self._published(job_id) / FILES / file.path
        raise FileNotFound(f"job {job_id} has no file {path!r}; list its files to see their names")

    def _seal(self, job_id: str, attempt: int, staged: Path) -> None:
        """Hash and sync all files, and write the manifest beside them."""
        if not (staged / FILES).is_dir():
            raise InternalError(f"attempt {attempt} of job {job_id} has no staging folder to publish")
        files = sorted(_sealed_files(staged / FILES), key=lambda file: file.path)
        manifest = {"job_id": job_id, "attempt": attempt, "files": [asdict(file) for file in files]}
        (staged / MANIFEST).unlink(missing_ok=True)  # of a publication that was cut off
        write_synced(staged / MANIFEST, json.dumps(manifest, indent=1).encode())
        os.chmod(staged, FOLDER_MODE)
        sync(staged)

    def _manifest(self, job_id: str) -> dict[str, Any]:
        if not JOB_ID.fullmatch(job_id):
            return {}
        try:
            manifest: dict[str, Any] = json.loads((self._published(job_id) / MANIFEST).read_bytes())
        except FileNotFoundError:
            return {}
        return manifest

    def _staged(self, job_id: str, attempt: int) -> Path:
        return self._root / "staging" / f"{_checked(job_id)}.{int(attempt)}"

    def _published(self, job_id: str) -> Path:
        return self._root / "published" / _checked(job_id)


def _checked(job_id: str) -> str:
    if not JOB_ID.fullmatch(job_id):
        raise InternalError(f"{job_id!r} is no job id")
    return job_id


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename replaces no folder that has content, so of several attempts the first one stays."""
    make_folder(target.parent)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    sync(target.parent)


def _sealed_files(folder: Path) -> Iterator[StoredFile]:
    for parent, folders, names in os.walk(folder, topdown=False):
        linked = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in names + linked:
            yield _sealed_file(Path(parent) / name, folder)
        os.chmod(parent, FOLDER_MODE)
        sync(Path(parent))


def _sealed_file(path: Path, folder: Path) -> StoredFile:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise InternalError(f"staging holds {path.name!r}, which is not a plain file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fchmod(file.fileno(), FILE_MODE)
        os.fsync(file.fileno())
        return StoredFile(path.relative_to(folder).as_posix(), os.fstat(file.fileno()).st_size, digest)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
