"""ObjectArtifacts: published files in an object store. Who may publish is decided by the job's fence.

artifacts/files/<job>/<attempt>/<path>    each attempt's uploads, under names of their own; of files with the same name
                                          and content only the first
artifacts/manifests/<job>.json            attempt, and path, size and sha256 of each file: put last, and only if there
                                          is none, so that all files are visible at once and the first attempt stays
artifacts/uploading/<job>.<attempt>       put first: these files are not published, and go if that stays so
artifacts/withdrawn/<job>.<attempt>       these files were; they go once nobody can be reading them any more

Publisher and sweeper may meet over one attempt that lost its fence. The sweeper marks the upload as condemned and then
looks for a manifest; the publisher puts its manifest and then looks for that mark: one of them sees the other.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from service.adapters.files.bucket import Bucket
from service.adapters.files.durable_files import disk_full_is_typed
from service.adapters.files.staging_folders import FILES, JOB_ID, StagingFolders, checked
from service.foundation.errors import AttemptSuperseded, FileNotFound, StorageRefused, StorageUnavailable
from service.foundation.hashed_files import HashedFile
from service.ports.files import NO_HASHES, StoredFile, pick_file, same_content
from service.publishing.file_headers import content_headers

logger = logging.getLogger(__name__)

MANIFESTS = "artifacts/manifests/"
UPLOADING = b"uploading"
CONDEMNED = b"condemned"
REMEMBERED = 1000
REMEMBERED_SECONDS = 60.0  # a manifest never changes, and its files outlive it by far longer


class ObjectArtifacts:
    """file_ports.ArtifactStore over a bucket; any number of machines may share it.

    staging: below a folder of this machine alone. grace_seconds: a younger upload is never stale, since its attempt may
    have begun after `keep` was read. reading_seconds: how long withdrawn files stay for those who read them.
    link_seconds: how long a link works; 0: no links are given, and everything is read through this process.
    """

    def __init__(
        self,
        bucket: Bucket,
        staging: Path,
        grace_seconds: float = 10.0,
        reading_seconds: float = 3600.0,
        link_seconds: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bucket = bucket
        self._staging = StagingFolders(staging, grace_seconds)
        self._grace_seconds = grace_seconds
        self._reading_seconds = reading_seconds + link_seconds
        self._link_seconds = link_seconds
        self._monotonic = monotonic
        self._remembered: dict[str, tuple[float, dict[str, Any]]] = {}

    def staging(self, job_id: str, attempt: int) -> Path:
        return self._staging.make(job_id, attempt)

    def publish(self, job_id: str, attempt: int, hashes: Mapping[str, HashedFile] = NO_HASHES) -> list[StoredFile]:
        if not self._read_manifest(job_id):
            with disk_full_is_typed("publishing the result"):
                manifest = self._staging.seal(job_id, attempt, hashes)
            self._bucket.put(_uploading(job_id, attempt), UPLOADING)
            self._upload(job_id, attempt, same_content(_files_of(manifest)).values())
            if self._bucket.create(_manifest(job_id), json.dumps(manifest, indent=1).encode()):
                self._confirm(job_id, attempt)
        self.discard(job_id, attempt)
        return _files_of(self._read_manifest(job_id))

    def discard(self, job_id: str, attempt: int) -> None:
        """Whatever the store says to it is logged: the sweeper comes by again."""
        self._staging.discard(job_id, attempt)
        try:
            if self._bucket.read(_uploading(job_id, attempt)) is not None:
                self._remove_unpublished(job_id, attempt)
        except (StorageUnavailable, StorageRefused) as error:
            logger.warning("what attempt %d of %s stored is left to the sweeper: %s", attempt, job_id, error)

    def discard_stale(self, keep: set[tuple[str, int]]) -> int:
        removed = self._staging.discard_stale(keep)
        for folder, seconds in (("uploading", self._grace_seconds), ("withdrawn", self._reading_seconds)):
            for job_id, attempt in self._older_than(folder, seconds):
                if folder == "uploading" and (job_id, attempt) in keep:
                    continue
                self._remove_unpublished(job_id, attempt)
                self._bucket.delete(_withdrawn(job_id, attempt))
                removed += 1
        return removed

    def withdraw(self, job_id: str) -> None:
        """Unpublish a job. Its files go later: see discard_stale."""
        manifest = self._read_manifest(job_id)
        if manifest:
            self._bucket.put(_withdrawn(job_id, manifest["attempt"]), b"")
            self._bucket.delete(_manifest(job_id))
        self._remembered.pop(job_id, None)

    def files(self, job_id: str) -> list[StoredFile]:
        return _files_of(self._known_manifest(job_id))

    def published_before(self, moment: datetime) -> list[str]:
        found = [entry.key for entry in self._bucket.entries(MANIFESTS) if entry.modified < moment]
        return [key.removeprefix(MANIFESTS).removesuffix(".json") for key in found]

    def file(self, job_id: str, path: str) -> StoredFile:
        return pick_file(job_id, self.files(job_id), path)

    def open(self, job_id: str, path: str, start: int = 0, end: int | None = None) -> BinaryIO:
        file = self.file(job_id, path)
        try:
            return self._bucket.open(self._key(job_id, file), start, file.size if end is None else end)
        except FileNotFoundError:
            raise FileNotFound(f"{path} of job {job_id} was withdrawn just now") from None

    def link(self, job_id: str, path: str) -> str | None:
        if not self._link_seconds:
            return None
        return self._bucket.link(self._key(job_id, self.file(job_id, path)), self._link_seconds)

    def ping(self) -> None:
        self._bucket.ping()

    def _upload(self, job_id: str, attempt: int, files: Iterable[StoredFile]) -> None:
        folder = self._staging.folder(job_id, attempt) / FILES
        for file in files:
            attributes = content_headers(file.path) | {"sha256": file.sha256}
            self._bucket.upload(_object(job_id, attempt, file.path), folder / file.path, attributes)

    def _confirm(self, job_id: str, attempt: int) -> None:
        """Take the manifest back if the sweeper has begun to remove its files."""
        if self._bucket.read(_uploading(job_id, attempt)) != UPLOADING:
            self._bucket.delete(_manifest(job_id))
            raise AttemptSuperseded(f"attempt {attempt} no longer owns job {job_id}: its upload was swept")
        self._bucket.delete(_uploading(job_id, attempt))

    def _remove_unpublished(self, job_id: str, attempt: int) -> None:
        """Remove an attempt's files, unless they are what is published; and the mark that they are not."""
        self._bucket.put(_uploading(job_id, attempt), CONDEMNED)
        if self._read_manifest(job_id).get("attempt") != attempt:
            self._bucket.delete(*(entry.key for entry in self._bucket.entries(_object(job_id, attempt, ""))))
        self._bucket.delete(_uploading(job_id, attempt))

    def _older_than(self, folder: str, seconds: float) -> list[tuple[str, int]]:
        now, found = datetime.now(UTC), []
        for entry in self._bucket.entries(f"artifacts/{folder}/"):
            job_id, _, attempt = entry.key.rpartition("/")[2].rpartition(".")
            if JOB_ID.fullmatch(job_id) and attempt.isdigit() and (now - entry.modified).total_seconds() >= seconds:
                found.append((job_id, int(attempt)))
        return found

    def _key(self, job_id: str, file: StoredFile) -> str:
        manifest = self._known_manifest(job_id)
        stored = same_content(_files_of(manifest))[file.path.rpartition("/")[2], file.sha256]
        return _object(job_id, manifest["attempt"], stored.path)

    def _known_manifest(self, job_id: str) -> dict[str, Any]:
        """Perhaps one of a minute ago: the hub asks for many at a time. That there is none is not remembered."""
        read_at, manifest = self._remembered.get(job_id, (0.0, None))
        if manifest is not None and self._monotonic() - read_at < REMEMBERED_SECONDS:
            return manifest
        return self._read_manifest(job_id)

    def _read_manifest(self, job_id: str) -> dict[str, Any]:
        """Empty when there is none."""
        if not JOB_ID.fullmatch(job_id):
            return {}
        content = self._bucket.read(_manifest(job_id))
        manifest: dict[str, Any] = json.loads(content) if content else {}
        self._remembered.pop(job_id, None)
        if manifest:
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[job_id] = (self._monotonic(), manifest)
        return manifest


def _files_of(manifest: dict[str, Any]) -> list[StoredFile]:
    return [StoredFile(**entry) for entry in manifest.get("files", [])]


def _manifest(job_id: str) -> str:
    return f"{MANIFESTS}{checked(job_id)}.json"


def _object(job_id: str, attempt: int, path: str) -> str:
    return f"artifacts/files/{checked(job_id)}/{attempt}/{path}"


def _uploading(job_id: str, attempt: int) -> str:
    return f"artifacts/uploading/{checked(job_id)}.{attempt}"


def _withdrawn(job_id: str, attempt: int) -> str:
    return f"artifacts/withdrawn/{checked(job_id)}.{attempt}"
