"""headroom.json of an artifact: what was asked for, what it was made from, the hash of every file. Checks nothing."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.jobs import Job
from service.ports import LocalModel

MANIFEST_NAME = "headroom.json"
REPORT_NAME = "report.json"
FORMAT_VERSION = 1
CHUNK_BYTES = 4 * 1024 * 1024


def write_whole(path: Path, content: bytes) -> None:
    """Put a new file in place of whatever is there. What is there may be a link to a file of the source model."""
    arriving = path.with_name(path.name + ".arriving")
    arriving.write_bytes(content)
    arriving.replace(path)


def as_json(value: Any) -> bytes:
    """The bytes of a JSON file for people to read. NaN and infinities are refused."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def describe_artifact(job: Job, model: LocalModel, files: dict[str, str]) -> dict[str, Any]:
    """The manifest: `files` maps each relative path to its sha256, and holds the report."""
    return {
        "format": "headroom",
        "format_version": FORMAT_VERSION,
        "job_id": job.id,
        "model": {"id": model.id, "revision": model.revision},
        "recipe": job.recipe.model_dump(mode="json"),
        "report_sha256": files[REPORT_NAME],
        "files": files,
    }


def hash_files(folder: Path, progress: Callable[[float], None]) -> dict[str, str]:
    """sha256 of every file below `folder` except the manifest itself, by relative path, sorted.

    `progress` hears the fraction of bytes done after each chunk, and may raise to stop the work.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST_NAME)
    total = sum(path.stat().st_size for path in paths) or 1
    done = 0
    hashes: dict[str, str] = {}
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                progress(done / total)
        hashes[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return hashes
