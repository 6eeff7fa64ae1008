"""The JSON of the hub routes, in the words of Hugging Face. Pure functions.

Every file is told as one in large file storage: its sha256 is known since it was published, so nothing is hashed for a
request, and `hf cache verify` compares with it. No file has a `xetHash`: clients would ask for tokens of that storage.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from service.ports.files import StoredFile
from service.publishing.hub import MAIN, Commit, Repository

TAGS = ["transformers", "safetensors", "headroom"]


def model_info(repository: Repository, commit: Commit) -> dict[str, Any]:
    return {
        "_id": commit.job_id,
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.split("/")[0],
        "sha": commit.id,
        "lastModified": _time(commit.time),
        "createdAt": _time(repository.commits[-1].time),
        "private": False,
        "gated": False,
        "disabled": False,
        "library_name": TAGS[0],
        "tags": TAGS,
        "downloads": 0,
        "likes": 0,
        "siblings": [
            {"rfilename": file.path, "size": file.size, "blobId": _pointer_id(file), "lfs": _lfs(file)}
            for file in commit.files
        ],
    }


def references(repository: Repository) -> dict[str, Any]:
    """The refs of a repository: one branch, and a tag for each name of each commit."""
    return {
        "branches": [{"name": MAIN, "ref": f"refs/heads/{MAIN}", "targetCommit": repository.main.id}],
        "tags": [
            {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit.id}
            for tag, commit in repository.tags.items()
        ],
        "converts": [],
        "pullRequests": [],
    }


def tree(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Entries below a folder, or only those directly in it; FileNotFound."""
    entries = list(_entries(commit, folder))
    depth = folder.count("/") + 1 if folder else 0
    return [entry for entry in entries if recursive or entry["path"].count("/") == depth]


def paths(commit: Commit, wanted: list[str]) -> list[dict[str, Any]]:
    """Entries of those of these paths that exist."""
    names = {path.strip("/") for path in wanted}
    return [entry for entry in _entries(commit, "") if entry["path"] in names]


def _entries(commit: Commit, folder: str) -> Iterator[dict[str, Any]]:
    files = commit.below(folder)
    folders = {file.path[:end] for file in files for end in _slashes(file.path) if end > len(folder)}
    for path in sorted(folders):
        oid = hashlib.sha1("".join(file.sha256 for file in commit.below(path)).encode(), usedforsecurity=False)
        yield {"type": "directory", "path": path, "size": 0, "oid": oid.hexdigest()}
    for file in files:
        yield {"type": "file", "path": file.path, "size": file.size, "oid": _pointer_id(file), "lfs": _lfs(file)}


def _slashes(path: str) -> list[int]:
    return [at for at, sign in enumerate(path) if sign == "/"]


def _lfs(file: StoredFile) -> dict[str, Any]:
    return {"oid": file.sha256, "sha256": file.sha256, "size": file.size, "pointerSize": len(_pointer(file))}


def _pointer(file: StoredFile) -> bytes:
    """What git holds in the place of the file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n".encode()


def _pointer_id(file: StoredFile) -> str:
    pointer = _pointer(file)
    return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"
