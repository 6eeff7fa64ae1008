"""What every ArtifactStore promises. Readers see all files of a job or none."""

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.adapters.files.bucket import Bucket
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.object_artifacts import ObjectArtifacts
from service.foundation.errors import DiskFull, FileNotFound, InternalError
from service.foundation.hashed_files import HashedFile
from service.ports.files import ArtifactStore

JOB = "job_" + "a" * 32


@pytest.fixture(params=["directory", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return open_store(request.param, request, tmp_path, grace_seconds=0.0)


def open_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path, grace_seconds: float) -> ArtifactStore:
    if kind == "directory":
        return DirectoryArtifacts(tmp_path / "artifacts", grace_seconds)
    bucket = Bucket(request.getfixturevalue("bucket_url"))
    return ObjectArtifacts(bucket, tmp_path / "artifacts" / "staging", grace_seconds)


def stage(artifacts: ArtifactStore, attempt: int, **contents: str) -> Path:
    folder = artifacts.staging(JOB, attempt)
    for name, content in contents.items():
        (folder / name).write_text(content)
    return folder


def content_of(artifacts: ArtifactStore, path: str) -> str:
    with artifacts.open(JOB, path) as file:
        return file.read().decode()


def test_nothing_is_listed_before_publication(artifacts: ArtifactStore) -> None:
    stage(artifacts, 1, weights="abc")

    assert artifacts.files(JOB) == []
    with pytest.raises(FileNotFound):
        artifacts.open(JOB, "weights")


def test_published_files_are_listed_with_size_and_hash(artifacts: ArtifactStore) -> None:
    folder = stage(artifacts, 1, weights="abc")
    (folder / "plots").mkdir()
    (folder / "plots" / "curve.svg").write_text("<svg/>")

    files = artifacts.publish(JOB, 1)

    assert [(file.path, file.size) for file in files] == [("plots/curve.svg", 6), ("weights", 3)]
    assert files[1].sha256 == hashlib.sha256(b"abc").hexdigest()
    assert artifacts.files(JOB) == files
    assert content_of(artifacts, "plots/curve.svg") == "<svg/>"
    assert not folder.exists()


def test_files_whose_hash_is_known_are_published_under_it_unless_they_changed(artifacts: ArtifactStore) -> None:
    folder = stage(artifacts, 1, weights="abc", other="abc")
    known = {name: HashedFile.of(folder / name, f"of {name}") for name in ("weights", "other")}
    (folder / "other").write_text("changed")

    files = {file.path: file.sha256 for file in artifacts.publish(JOB, 1, known)}

    assert files == {"weights": "of weights", "other": hashlib.sha256(b"changed").hexdigest()}


def test_published_files_are_readable_by_everyone(tmp_path: Path) -> None:
    artifacts = DirectoryArtifacts(tmp_path)
    folder = stage(artifacts, 1, weights="abc")
    for path, mode in [(folder / "weights", 0o600), (folder, 0o700), (folder.parent, 0o700)]:
        path.chmod(mode)
    artifacts.publish(JOB, 1)

    with artifacts.open(JOB, "weights") as file:
        path = Path(file.name)

    assert path.stat().st_mode & 0o777 == 0o644
    assert [parent.stat().st_mode & 0o777 for parent in path.parents[:2]] == [0o755, 0o755]


@pytest.mark.parametrize(
    "path", ["", ".", "..", "../manifest.json", "weights/", "/etc/passwd", "./weights", "plots", "a\0b"]
)
def test_only_listed_paths_can_be_opened(artifacts: ArtifactStore, path: str) -> None:
    folder = stage(artifacts, 1, weights="abc")
    (folder / "plots").mkdir()
    artifacts.publish(JOB, 1)

    with pytest.raises(FileNotFound):
        artifacts.open(JOB, path)


@pytest.mark.parametrize("job_id", ["", "..", "../" + JOB, "a/b", "\0", "x" * 500])
def test_an_odd_job_id_has_no_files(artifacts: ArtifactStore, job_id: str) -> None:
    stage(artifacts, 1, weights="abc")
    artifacts.publish(JOB, 1)

    assert artifacts.files(job_id) == []
    with pytest.raises(FileNotFound):
        artifacts.open(job_id, "weights")
    with pytest.raises(InternalError):
        artifacts.staging(job_id, 1)


def test_an_open_file_can_be_read_to_its_end_after_withdrawal(artifacts: ArtifactStore) -> None:
    stage(artifacts, 1, weights="abc")
    artifacts.publish(JOB, 1)

    with artifacts.open(JOB, "weights") as file:
        artifacts.withdraw(JOB)

        assert file.read() == b"abc"
    assert artifacts.files(JOB) == []


def test_a_part_of_a_file_can_be_read(artifacts: ArtifactStore) -> None:
    stage(artifacts, 1, weights="0123456789", empty="")
    artifacts.publish(JOB, 1)

    with artifacts.open(JOB, "weights", 3, 6) as file:
        assert file.read(3) == b"345"
    with artifacts.open(JOB, "weights", 8) as file:
        assert file.read() == b"89"
    assert content_of(artifacts, "empty") == ""
    assert artifacts.file(JOB, "weights").size == 10


def test_a_store_that_is_there_answers(artifacts: ArtifactStore) -> None:
    artifacts.ping()


def test_publishing_twice_under_one_attempt_changes_nothing(artifacts: ArtifactStore) -> None:
    stage(artifacts, 1, weights="abc")
    first = artifacts.publish(JOB, 1)

    assert artifacts.publish(JOB, 1) == first


def test_of_two_attempts_the_first_to_publish_stays_and_the_other_leaves_no_staging(artifacts: ArtifactStore) -> None:
    stage(artifacts, 1, weights="first")
    late = stage(artifacts, 2, weights="second", extra="x")
    published = artifacts.publish(JOB, 1)

    assert artifacts.publish(JOB, 2) == published
    assert content_of(artifacts, "weights") == "first"
    assert not late.exists()


def test_when_attempts_publish_at_once_one_stays_whole(artifacts: ArtifactStore, tmp_path: Path) -> None:
    attempts = range(1, 7)
    for attempt in attempts:
        stage(artifacts, attempt, weights=str(attempt), proof=str(attempt))
    start, listed, seen = threading.Barrier(len(attempts) + 1), [], set[tuple[str, ...]]()

    def publish(attempt: int) -> None:
        start.wait()
        listed.append(artifacts.publish(JOB, attempt))

    threads = [threading.Thread(target=publish, args=(attempt,)) for attempt in attempts]
    for thread in threads:
        thread.start()
    start.wait()
    while any(thread.is_alive() for thread in threads):
        seen.add(tuple(file.path for file in artifacts.files(JOB)))
    for thread in threads:
        thread.join()

    assert content_of(artifacts, "weights") == content_of(artifacts, "proof")
    assert listed == [artifacts.files(JOB)] * len(attempts)
    assert seen <= {(), ("proof", "weights")}
    assert list((tmp_path / "artifacts" / "staging").rglob("*")) == []


def test_a_withdrawn_job_can_be_published_again(artifacts: ArtifactStore) -> None:
    stage(artifacts, 1, weights="first")
    artifacts.publish(JOB, 1)
    artifacts.withdraw(JOB)
    artifacts.withdraw(JOB)
    stage(artifacts, 2, weights="second")

    artifacts.publish(JOB, 2)

    assert content_of(artifacts, "weights") == "second"


def test_publishing_without_staging_is_a_defect(artifacts: ArtifactStore) -> None:
    with pytest.raises(InternalError):
        artifacts.publish(JOB, 1)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo], ids=["link", "pipe"])
def test_only_plain_files_are_published(artifacts: ArtifactStore, make: object) -> None:
    assert callable(make)
    make(stage(artifacts, 1, weights="abc") / "odd")

    with pytest.raises(InternalError):
        artifacts.publish(JOB, 1)
    assert artifacts.files(JOB) == []


def test_a_linked_folder_is_not_followed(artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("k")
    (stage(artifacts, 1, weights="abc") / "odd").symlink_to(tmp_path / "secret")

    with pytest.raises(InternalError):
        artifacts.publish(JOB, 1)


def test_staging_again_under_the_same_attempt_starts_empty(artifacts: ArtifactStore) -> None:
    stage(artifacts, 1, weights="abc")

    assert list(artifacts.staging(JOB, 1).iterdir()) == []


def test_discarding_is_idempotent(artifacts: ArtifactStore) -> None:
    folder = stage(artifacts, 1, weights="abc")

    artifacts.discard(JOB, 1)
    artifacts.discard(JOB, 1)

    assert not folder.exists()


def test_stale_staging_is_removed_and_kept_attempts_stay(artifacts: ArtifactStore) -> None:
    stale, kept = stage(artifacts, 1, weights="abc"), stage(artifacts, 2, weights="abc")

    assert artifacts.discard_stale({(JOB, 2)}) == 1
    assert not stale.exists()
    assert kept.exists()


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_a_folder_younger_than_the_grace_is_not_stale(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    artifacts = open_store(kind, request, tmp_path, grace_seconds=60.0)
    folder = stage(artifacts, 1, weights="abc")

    assert artifacts.discard_stale(set()) == 0
    assert folder.exists()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        yield


def test_a_full_disk_is_named_and_nothing_is_published(artifacts: ArtifactStore, full_disk: None) -> None:
    stage(artifacts, 1, weights="abc")

    with pytest.raises(DiskFull):
        artifacts.publish(JOB, 1)
    assert artifacts.files(JOB) == []


def test_files_of_one_name_and_content_are_kept_once_and_read_under_all_their_paths(
    request: pytest.FixtureRequest, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    folder = stage(artifacts, 1, body="abc", other="abc")
    for name, content in (("one", "abc"), ("two", "abc"), ("three", "changed")):
        (folder / "points" / name).mkdir(parents=True)
        (folder / "points" / name / "body").write_text(content)

    files = artifacts.publish(JOB, 1)

    paths = ["body", "other", "points/one/body", "points/three/body", "points/two/body"]
    assert [file.path for file in files] == paths
    assert [content_of(artifacts, path) for path in paths] == ["abc", "abc", "abc", "changed", "abc"]
    if isinstance(artifacts, DirectoryArtifacts):
        root = tmp_path / "artifacts/published" / JOB / "files"
        kept = {(root / path).stat().st_ino for path in paths}
    else:
        kept = set(Bucket(request.getfixturevalue("bucket_url")).entries("artifacts/files/"))
    assert len(kept) == 3
    artifacts.withdraw(JOB)
    assert artifacts.files(JOB) == []
