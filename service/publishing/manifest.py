"""headroom.json of an artifact: what was asked for, what it was made from, the hash of every file. Checks nothing."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from service.foundation.hashed_files import HashedFile, hash_file
from service.ports.models import LocalModel
from service.records.job import Job

MANIFEST_NAME = "headroom.json"
REPORT_NAME = "report.json"
FORMAT_VERSION = 1


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
        "recipe": job.recipe.model_dump(mode="json", exclude={"webhook"}),
        "report_sha256": files[REPORT_NAME],
        "files": files,
    }


def hash_files(
    folder: Path, known: Mapping[str, HashedFile], progress: Callable[[float], None]
) -> dict[str, HashedFile]:
    """Every file below `folder` except the manifest itself, by relative path, sorted.

    What is still as `known` says is not read. `progress` hears the fraction of the other bytes done after each chunk,
    and may raise to stop the work.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    paths.pop(MANIFEST_NAME, None)
    hashes = {name: known[name] for name, path in paths.items() if name in known and known[name].is_still(path)}
    total = sum(path.stat().st_size for name, path in paths.items() if name not in hashes) or 1
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress(done / total)

    return {name: hashes.get(name) or hash_file(path, on_bytes) for name, path in sorted(paths.items())}
