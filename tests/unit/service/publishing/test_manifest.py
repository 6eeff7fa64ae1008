"""headroom.json lists every file with its hash."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from service.foundation.hashed_files import HashedFile
from service.ports.models import LocalModel
from service.publishing.manifest import as_json, describe_artifact, hash_files, write_whole
from tests.factories import make_job


def test_every_file_is_listed_with_its_hash_but_the_manifest_itself(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.bin").write_bytes(b"b" * 10)
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / "empty").touch()
    (tmp_path / "headroom.json").write_bytes(b"{}")

    hashed = hash_files(tmp_path, {}, lambda fraction: None)

    assert {path: file.sha256 for path, file in hashed.items()} == {
        "a.txt": hashlib.sha256(b"a").hexdigest(),
        "empty": hashlib.sha256(b"").hexdigest(),
        "sub/b.bin": hashlib.sha256(b"b" * 10).hexdigest(),
    }


def test_hashing_can_be_stopped_between_chunks(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a")

    def stop(fraction: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        hash_files(tmp_path, {}, stop)


def test_a_file_that_was_hashed_while_it_was_written_is_read_again_only_if_it_was_touched(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    known = {path.name: HashedFile.of(path, "taken before")}
    path.chmod(0o600)
    assert hash_files(tmp_path, known, lambda fraction: None) == known

    path.write_bytes(b"damaged")
    os.utime(path, ns=(0, known[path.name].mtime_ns + 1))
    found = hash_files(tmp_path, known, lambda fraction: None)
    assert found[path.name].sha256 == hashlib.sha256(b"damaged").hexdigest()


def test_the_manifest_says_what_was_asked_for_and_what_it_was_made_from() -> None:
    job = make_job()
    manifest = describe_artifact(job, LocalModel("acme/tiny", "abc", Path("unused")), {"report.json": "12"})

    assert manifest["recipe"]["ratio"] == 0.5
    assert manifest["model"] == {"id": "acme/tiny", "revision": "abc"}
    assert manifest["report_sha256"] == "12"
    assert manifest["job_id"] == job.id
    assert json.loads(as_json(manifest)) == manifest


def test_writing_a_file_leaves_the_file_it_was_linked_to_alone(tmp_path: Path) -> None:
    original, staged = tmp_path / "original", tmp_path / "README.md"
    original.write_bytes(b"of the source model")
    os.link(original, staged)

    write_whole(staged, b"new")

    assert staged.read_bytes() == b"new"
    assert original.read_bytes() == b"of the source model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "original"]
