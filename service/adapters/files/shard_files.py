"""What the workers on one job hand to each other, in a shared folder or in an object store."""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from service.adapters.files.durable_files import FILE_MODE, disk_full_is_typed, make_folder, sync
from service.adapters.files.staging_folders import JOB_ID, checked

if TYPE_CHECKING:
    from service.adapters.files.bucket import Bucket

PREFIX = "shards/"
READ_BYTES = 1 << 20


class DirectoryShardFiles:
    """ports.ShardFiles below one folder that all workers share: root/<job>/<name>."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, job_id: str, name: str, file: Path) -> None:
        with disk_full_is_typed("keeping the answer of a shard"):
            folder = make_folder(self.root / checked(job_id))
            temporary = folder / f".{secrets.token_hex(8)}"
            try:
                shutil.move(file, temporary)
                os.chmod(temporary, FILE_MODE)
                sync(temporary)
                os.replace(temporary, folder / name)
            finally:
                temporary.unlink(missing_ok=True)

    def get(self, job_id: str, name: str) -> Path | None:
        found = self.root / checked(job_id) / name
        return found if found.is_file() else None

    def share(self, job_id: str, name: str, file: Path) -> bool:
        folder = make_folder(self.root / checked(job_id))
        try:
            os.link(file, folder / name)
        except FileExistsError:
            return True  # by an attempt before
        except OSError:  # another disk, or one without links
            return False
        return True

    def drop(self, job_id: str, name: str) -> None:
        (self.root / checked(job_id) / name).unlink(missing_ok=True)

    def jobs(self) -> set[str]:
        return {folder.name for folder in self.root.glob("*") if JOB_ID.fullmatch(folder.name)}

    def remove(self, job_id: str) -> None:
        shutil.rmtree(self.root / checked(job_id), ignore_errors=True)


class ObjectShardFiles:
    """ports.ShardFiles in a bucket: shards/<job>/<name>; with copies below a folder of this machine."""

    def __init__(self, bucket: "Bucket", copies: Path) -> None:
        self._bucket = bucket
        self._copies = DirectoryShardFiles(copies)

    def put(self, job_id: str, name: str, file: Path) -> None:
        self._bucket.upload(_object(job_id, name), file, {})
        self._copies.put(job_id, name, file)

    def get(self, job_id: str, name: str) -> Path | None:
        copy = self._copies.get(job_id, name)
        if copy is not None:
            return copy
        size = self._bucket.size(_object(job_id, name))
        return None if size is None else self._fetch(job_id, name, size)

    def share(self, job_id: str, name: str, file: Path) -> bool:
        """Never: the file would go to the bucket, and from there to each worker."""
        return False

    def drop(self, job_id: str, name: str) -> None:
        pass

    def jobs(self) -> set[str]:
        keys = (entry.key.partition(PREFIX)[2] for entry in self._bucket.entries(PREFIX))
        return {key.partition("/")[0] for key in keys} | self._copies.jobs()

    def remove(self, job_id: str) -> None:
        self._bucket.delete(*(entry.key for entry in self._bucket.entries(_folder(job_id))))
        self._copies.remove(job_id)

    def _fetch(self, job_id: str, name: str, size: int) -> Path | None:
        temporary = make_folder(self._copies.root) / f".{secrets.token_hex(8)}"
        try:
            with disk_full_is_typed("fetching the answer of a shard"), suppress(FileNotFoundError):
                with temporary.open("xb") as file, self._bucket.open(_object(job_id, name), 0, size) as content:
                    shutil.copyfileobj(content, file, READ_BYTES)
                self._copies.put(job_id, name, temporary)
        finally:
            temporary.unlink(missing_ok=True)
        return self._copies.get(job_id, name)


def _folder(job_id: str) -> str:
    return f"{PREFIX}{checked(job_id)}/"


def _object(job_id: str, name: str) -> str:
    return f"{_folder(job_id)}{name}"
