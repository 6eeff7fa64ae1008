"""DirectoryArtifacts: published files in a folder. No database here: who may publish is decided by the job's fence.

root/staging/<job>.<attempt>/...            written by one attempt: see staging_folders.py
root/published/<job>/files/...              renamed from there, whole
root/published/<job>/manifest.json          attempt, and path, size and sha256 of each file
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from service.adapters.files.durable_files import disk_full_is_typed, make_folder, sync
from service.adapters.files.staging_folders import FILES, JOB_ID, MANIFEST, StagingFolders, checked
from service.foundation.errors import FileNotFound
from service.foundation.hashed_files import HashedFile
from service.ports.files import NO_HASHES, StoredFile, pick_file


class DirectoryArtifacts:
    """file_ports.ArtifactStore below one folder; several processes and hosts may share it.

    grace_seconds: a younger staging folder is never stale, since its attempt may have begun after `keep` was read.
    """

    def __init__(self, root: Path, grace_seconds: float = 10.0) -> None:
        self._root = root
        self._staging = StagingFolders(root / "staging", grace_seconds)

    def staging(self, job_id: str, attempt: int) -> Path:
        return self._staging.make(job_id, attempt)

    def publish(self, job_id: str, attempt: int, hashes: Mapping[str, HashedFile] = NO_HASHES) -> list[StoredFile]:
        published = self._published(job_id)
        if not published.exists():
            with disk_full_is_typed("publishing the result"):
                self._staging.seal(job_id, attempt, hashes)
                _rename_to_new(self._staging.folder(job_id, attempt), published)
        self.discard(job_id, attempt)
        return self.files(job_id)

    def discard(self, job_id: str, attempt: int) -> None:
        self._staging.discard(job_id, attempt)

    def discard_stale(self, keep: set[tuple[str, int]]) -> int:
        return self._staging.discard_stale(keep)

    def withdraw(self, job_id: str) -> None:
        """Rename first: no reader sees a half-removed publication."""
        trash = make_folder(self._staging.root) / f"{job_id}.withdrawn-{time.time_ns()}"
        with suppress(FileNotFoundError):
            os.rename(self._published(job_id), trash)
            shutil.rmtree(trash)

    def files(self, job_id: str) -> list[StoredFile]:
        return [StoredFile(**entry) for entry in self._manifest(job_id).get("files", [])]

    def published_before(self, moment: datetime) -> list[str]:
        manifests = (self._root / "published").glob(f"*/{MANIFEST}")
        return [path.parent.name for path in manifests if path.stat().st_mtime < moment.timestamp()]

    def file(self, job_id: str, path: str) -> StoredFile:
        return pick_file(job_id, self.files(job_id), path)

    def open(self, job_id: str, path: str, start: int = 0, end: int | None = None) -> BinaryIO:
        """`path` is only compared with the manifest; it never becomes part of a path before it was found there."""
        file = self.file(job_id, path)
        try:
            opened = (self._published(job_id) / FILES / file.path).open("rb")
        except FileNotFoundError:
            raise FileNotFound(f"{path} of job {job_id} was withdrawn just now") from None
        opened.seek(start)
        return opened

    def link(self, job_id: str, path: str) -> str | None:
        return None

    def ping(self) -> None:
        make_folder(self._root)

    def _manifest(self, job_id: str) -> dict[str, Any]:
        if not JOB_ID.fullmatch(job_id):
            return {}
        try:
            manifest: dict[str, Any] = json.loads((self._published(job_id) / MANIFEST).read_bytes())
        except FileNotFoundError:
            return {}
        return manifest

    def _published(self, job_id: str) -> Path:
        return self._root / "published" / checked(job_id)


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename replaces no folder that has content, so of several attempts the first one stays."""
    make_folder(target.parent)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    sync(target.parent)
