"""What every ShardFiles promises: files that another worker finds whole, and that go together."""

import errno
from pathlib import Path

import pytest

from service.adapters.files.bucket import Bucket
from service.adapters.files.shard_files import DirectoryShardFiles, ObjectShardFiles
from service.foundation.errors import InternalError
from service.ports.files import ShardFiles

JOB, OTHER = "job_" + "a" * 32, "job_" + "b" * 32


@pytest.fixture(params=["directory", "s3"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ShardFiles, ShardFiles]:
    """Two machines."""
    if request.param == "directory":
        return DirectoryShardFiles(tmp_path / "shared"), DirectoryShardFiles(tmp_path / "shared")
    url = request.getfixturevalue("bucket_url")
    return ObjectShardFiles(Bucket(url), tmp_path / "a"), ObjectShardFiles(Bucket(url), tmp_path / "b")


def put(files: ShardFiles, folder: Path, job_id: str, name: str, content: bytes) -> None:
    file = folder / "written"
    file.write_bytes(content)
    files.put(job_id, name, file)
    assert not file.exists()


def test_what_one_worker_puts_another_gets(workers: tuple[ShardFiles, ShardFiles], tmp_path: Path) -> None:
    one, other = workers
    content = bytes(range(256)) * 50_000  # more than is read at a time
    put(one, tmp_path, JOB, "step.0.1", content)
    put(one, tmp_path, JOB, "empty", b"")
    for files in (one, other):
        found = files.get(JOB, "step.0.1")
        assert found is not None
        assert found.read_bytes() == content
        empty = files.get(JOB, "empty")
        assert empty is not None
        assert empty.read_bytes() == b""
    again = other.get(JOB, "step.0.1")
    assert again == found


def test_what_was_not_put_is_none(workers: tuple[ShardFiles, ShardFiles], tmp_path: Path) -> None:
    one, other = workers
    put(one, tmp_path, JOB, "a", b"1")
    assert other.get(JOB, "b") is other.get(OTHER, "a") is None


def test_files_of_a_job_go_together_on_every_machine(workers: tuple[ShardFiles, ShardFiles], tmp_path: Path) -> None:
    one, other = workers
    for job_id in (JOB, OTHER):
        put(one, tmp_path, job_id, "a", b"1")
    other.get(JOB, "a")
    assert one.jobs() == other.jobs() == {JOB, OTHER}
    one.remove(JOB)
    other.remove(JOB)
    one.remove("job_none")
    assert one.jobs() == other.jobs() == {OTHER}
    assert one.get(JOB, "a") is other.get(JOB, "a") is None


def test_a_shared_file_is_read_where_it_lies_until_it_is_dropped(
    workers: tuple[ShardFiles, ShardFiles], tmp_path: Path
) -> None:
    one, other = workers
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    written = file.stat().st_mtime_ns
    is_shared = one.share(JOB, "stored", file)
    assert is_shared == isinstance(one, DirectoryShardFiles)  # a bucket would take a copy
    found = other.get(JOB, "stored")
    assert (found is not None) == is_shared
    if found is not None:
        assert found.samefile(file)
        again = tmp_path / "again"
        again.write_bytes(b"weights")
        assert one.share(JOB, "stored", again)  # by a later attempt: a name stands for one content
    one.drop(JOB, "stored")
    one.drop(JOB, "stored")
    assert other.get(JOB, "stored") is None
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (b"weights", written)


def test_what_lies_on_another_disk_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    (tmp_path / "file").write_bytes(b"1")
    files = DirectoryShardFiles(tmp_path / "shared")
    assert not files.share(JOB, "stored", tmp_path / "file")
    assert files.get(JOB, "stored") is None


def test_a_name_of_no_job_reaches_no_other_folder(workers: tuple[ShardFiles, ShardFiles]) -> None:
    with pytest.raises(InternalError):
        workers[0].remove("../other")
