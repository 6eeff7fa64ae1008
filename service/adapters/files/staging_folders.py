"""StagingFolders: where attempts write on this machine's disk, and how such a folder is made fit to be published.

root/<job>.<attempt>/files/...       written by one attempt
root/<job>.<attempt>/manifest.json   attempt, and path, size and sha256 of each file
"""

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.adapters.files.durable_files import (
    FILE_MODE,
    FOLDER_MODE,
    age_seconds,
    disk_full_is_typed,
    make_folder,
    sync,
    write_synced,
)
from service.foundation.errors import InternalError
from service.foundation.hashed_files import HashedFile, hash_file
from service.ports.files import StoredFile, same_content

JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
FILES = "files"
MANIFEST = "manifest.json"


class StagingFolders:
    """All below one folder. grace_seconds: a younger one is never stale, as its attempt may be newer than `keep`."""

    def __init__(self, root: Path, grace_seconds: float) -> None:
        self.root = root
        self._grace_seconds = grace_seconds

    def folder(self, job_id: str, attempt: int) -> Path:
        return self.root / f"{checked(job_id)}.{int(attempt)}"

    def make(self, job_id: str, attempt: int) -> Path:
        """An empty folder for the files of this attempt."""
        folder = self.folder(job_id, attempt)
        with disk_full_is_typed("making a staging folder"):
            shutil.rmtree(folder, ignore_errors=True)
            return make_folder(folder / FILES)

    def seal(self, job_id: str, attempt: int, hashes: Mapping[str, HashedFile]) -> dict[str, Any]:
        """Hash and sync all files, write the manifest beside them, and return it."""
        folder = self.folder(job_id, attempt)
        if not (folder / FILES).is_dir():
            raise InternalError(f"attempt {attempt} of job {job_id} has no staging folder to publish")
        files = sorted(_sealed_files(folder / FILES, hashes), key=lambda file: file.path)
        _share(folder / FILES, files)
        manifest = {"job_id": job_id, "attempt": attempt, "files": [asdict(file) for file in files]}
        (folder / MANIFEST).unlink(missing_ok=True)  # of a publication that was cut off
        write_synced(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        os.chmod(folder, FOLDER_MODE)
        sync(folder)
        return manifest

    def discard(self, job_id: str, attempt: int) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder(job_id, attempt))

    def discard_stale(self, keep: set[tuple[str, int]]) -> int:
        kept = {self.folder(job_id, attempt) for job_id, attempt in keep}
        stale = [
            folder
            for folder in self.root.glob("*")
            if folder not in kept and age_seconds(folder) >= self._grace_seconds
        ]
        for folder in stale:
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)
        return len(stale)


def checked(job_id: str) -> str:
    """The job id, once it is sure to be fit for a path."""
    if not JOB_ID.fullmatch(job_id):
        raise InternalError(f"{job_id!r} is no job id")
    return job_id


def _sealed_files(folder: Path, hashes: Mapping[str, HashedFile]) -> Iterator[StoredFile]:
    for parent, folders, names in os.walk(folder, topdown=False):
        linked = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in names + linked:
            path = Path(parent) / name
            yield _sealed_file(path, folder, hashes.get(path.relative_to(folder).as_posix()))
        os.chmod(parent, FOLDER_MODE)
        sync(Path(parent))


def _share(folder: Path, files: list[StoredFile]) -> None:
    """One file on the disk for all of the same name and content."""
    first = same_content(files)
    for file in files:
        path = folder / file.path
        same = folder / first[path.name, file.sha256].path
        if not path.samefile(same):
            arriving = path.with_name(path.name + ".arriving")
            with suppress(OSError):  # a file system without links has them twice
                os.link(same, arriving)
                os.replace(arriving, path)
                sync(path.parent)


def _sealed_file(path: Path, folder: Path, known: HashedFile | None) -> StoredFile:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise InternalError(f"staging holds {path.name!r}, which is not a plain file")
    with path.open("rb") as file:
        found = known if known and known.is_still(path) else hash_file(path, lambda count: None)
        os.fchmod(file.fileno(), FILE_MODE)
        os.fsync(file.fileno())
        return StoredFile(path.relative_to(folder).as_posix(), os.fstat(file.fileno()).st_size, found.sha256)
