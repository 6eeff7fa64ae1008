"""What only an object store can do to files: be away, refuse, break off, be written by an attempt that was given up."""

import hashlib
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.adapters.files import bucket as bucket_module
from service.adapters.files.bucket import READ_BYTES, Bucket
from service.adapters.files.object_artifacts import ObjectArtifacts
from service.adapters.files.object_corpora import ObjectCorpora
from service.adapters.files.storage import open_storage
from service.foundation.errors import AttemptSuperseded, FileNotFound, InternalError, StorageRefused, StorageUnavailable
from service.foundation.settings import Settings
from tests.hub_server import CuttingProxy
from tests.s3_server import ENVIRONMENT, S3Server, set_environment

JOB = "job_" + "b" * 32


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def bucket(bucket_url: str) -> Bucket:
    return Bucket(bucket_url)


@pytest.fixture
def artifacts(bucket: Bucket, tmp_path: Path) -> ObjectArtifacts:
    return ObjectArtifacts(bucket, tmp_path / "staging", 0.0, reading_seconds=0.0, link_seconds=60.0)


@pytest.fixture
def corpora(bucket: Bucket, tmp_path: Path) -> ObjectCorpora:
    return ObjectCorpora(bucket, tmp_path / "incoming", tmp_path / "cache", 10_000, utc_now)


def stage(artifacts: ObjectArtifacts, attempt: int, **contents: bytes) -> None:
    folder = artifacts.staging(JOB, attempt)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def keys(bucket: Bucket) -> list[str]:
    return sorted(entry.key for entry in bucket.entries(""))


# Publication


def test_nothing_but_files_and_their_manifest_is_left_of_a_publication(
    artifacts: ObjectArtifacts, bucket: Bucket
) -> None:
    stage(artifacts, 2, weights=b"abc")
    artifacts.publish(JOB, 2)

    assert keys(bucket) == [f"artifacts/files/{JOB}/2/weights", f"artifacts/manifests/{JOB}.json"]


def test_the_loser_of_two_attempts_removes_its_own_upload_only(artifacts: ObjectArtifacts, bucket: Bucket) -> None:
    stage(artifacts, 1, weights=b"first")
    stage(artifacts, 2, weights=b"second")
    upload = bucket.upload

    def overtaken(key: str, path: Path, attributes: dict[str, str]) -> None:
        upload(key, path, attributes)
        bucket.upload = upload  # type: ignore[method-assign]
        artifacts.publish(JOB, 1)

    bucket.upload = overtaken  # type: ignore[method-assign]
    published = artifacts.publish(JOB, 2)

    assert [file.sha256 for file in published] == [hashlib.sha256(b"first").hexdigest()]
    assert keys(bucket) == [f"artifacts/files/{JOB}/1/weights", f"artifacts/manifests/{JOB}.json"]


def cut_off_upload(artifacts: ObjectArtifacts, bucket: Bucket, attempt: int) -> None:
    """An attempt that dies between its files and its manifest."""
    stage(artifacts, attempt, weights=b"half")

    def die(key: str, content: bytes) -> bool:
        raise KeyboardInterrupt

    create, bucket.create = bucket.create, die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        artifacts.publish(JOB, attempt)
    bucket.create = create  # type: ignore[method-assign]


def test_an_upload_that_was_cut_off_is_invisible_and_swept(artifacts: ObjectArtifacts, bucket: Bucket) -> None:
    cut_off_upload(artifacts, bucket, 1)

    assert artifacts.files(JOB) == []
    assert artifacts.discard_stale({(JOB, 1)}) == 0
    assert len(keys(bucket)) == 2
    artifacts.discard_stale(set())
    assert keys(bucket) == []


def test_the_parent_of_a_dead_attempt_removes_its_upload(artifacts: ObjectArtifacts, bucket: Bucket) -> None:
    cut_off_upload(artifacts, bucket, 1)

    artifacts.discard(JOB, 1)

    assert keys(bucket) == []


def test_a_mark_that_outlived_its_publication_costs_no_file(artifacts: ObjectArtifacts, bucket: Bucket) -> None:
    stage(artifacts, 1, weights=b"abc")
    artifacts.publish(JOB, 1)
    bucket.put(f"artifacts/uploading/{JOB}.1", b"uploading")

    artifacts.discard_stale(set())

    assert len(keys(bucket)) == 2
    assert artifacts.open(JOB, "weights").read() == b"abc"


def test_an_attempt_whose_upload_was_swept_meanwhile_publishes_nothing(
    artifacts: ObjectArtifacts, bucket: Bucket
) -> None:
    stage(artifacts, 1, weights=b"late")
    upload = bucket.upload

    def swept_after(key: str, path: Path, attributes: dict[str, str]) -> None:
        upload(key, path, attributes)
        artifacts._remove_unpublished(JOB, 1)

    bucket.upload = swept_after  # type: ignore[method-assign]
    with pytest.raises(AttemptSuperseded):
        artifacts.publish(JOB, 1)

    assert artifacts.files(JOB) == []
    assert [key for key in keys(bucket) if "manifests" in key] == []


def test_withdrawn_files_stay_for_those_who_read_them_and_go_then(bucket: Bucket, tmp_path: Path) -> None:
    patient = ObjectArtifacts(bucket, tmp_path / "staging", 0.0, reading_seconds=60.0)
    content = os.urandom(READ_BYTES + 10)
    stage(patient, 1, weights=content)
    patient.publish(JOB, 1)

    with patient.open(JOB, "weights") as file:
        assert file.read(10) == content[:10]
        patient.withdraw(JOB)
        patient.discard_stale(set())
        assert file.read() == content[10:]
    with pytest.raises(FileNotFound):
        patient.open(JOB, "weights")
    ObjectArtifacts(bucket, tmp_path / "staging", 0.0, reading_seconds=0.0).discard_stale(set())
    assert keys(bucket) == []


# Large files, broken connections


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(
    artifacts: ObjectArtifacts, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 << 20)  # the smallest that S3 allows
    content = os.urandom((11 << 20) + 1)
    stage(artifacts, 1, weights=content)

    (file,) = artifacts.publish(JOB, 1)

    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert sum(f"{JOB}/1/weights?partNumber=" in line for line in s3.log.read_text().splitlines()) == 3
    with artifacts.open(JOB, "weights", 6 << 20) as opened:
        assert opened.read() == content[6 << 20 :]


def test_a_broken_connection_is_taken_up_where_it_broke(
    bucket_url: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(READ_BYTES + (3 << 20))
    direct = ObjectArtifacts(Bucket(bucket_url), tmp_path / "staging")
    stage(direct, 1, weights=content)
    direct.publish(JOB, 1)

    with CuttingProxy(httpx.URL(s3.url).port or 0, limit=READ_BYTES + (1 << 20)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        with ObjectArtifacts(Bucket(bucket_url), tmp_path / "staging").open(JOB, "weights") as file:
            assert file.read() == content
        assert proxy.has_cut


# Trouble


Call = Callable[[ObjectArtifacts, ObjectCorpora], Any]
CALLS: list[Call] = [
    lambda artifacts, corpora: artifacts.ping(),
    lambda artifacts, corpora: artifacts.files(JOB),
    lambda artifacts, corpora: artifacts.publish(JOB, 1),
    lambda artifacts, corpora: artifacts.discard_stale(set()),
    lambda artifacts, corpora: corpora.add(iter([b"text"]), "text", None),
    lambda artifacts, corpora: corpora.get("corpus_" + "0" * 32),
    lambda artifacts, corpora: corpora.all(),
]


def expect(error: type[Exception], bucket: Bucket, tmp_path: Path) -> None:
    artifacts = ObjectArtifacts(bucket, tmp_path / "staging", 0.0)
    corpora = ObjectCorpora(bucket, tmp_path / "incoming", tmp_path / "cache", 10_000, utc_now)
    stage(artifacts, 1, weights=b"abc")
    for call in CALLS:
        with pytest.raises(error):
            call(artifacts, corpora)
    artifacts.discard(JOB, 1)  # never raises: the sweeper comes by again
    assert list((tmp_path / "staging").iterdir()) == []
    assert list((tmp_path / "incoming").iterdir()) == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bucket_module.RETRIES, "max_retries", 1)


def test_a_store_that_is_away_is_unavailable(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, ENVIRONMENT | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})

    expect(StorageUnavailable, Bucket("s3://bucket"), tmp_path)


def test_a_bucket_that_does_not_exist_is_refused(quick: None, bucket_url: str, tmp_path: Path) -> None:
    expect(StorageRefused, Bucket("s3://no-such-bucket"), tmp_path)


@pytest.fixture
def strict(s3: S3Server) -> Iterator[None]:
    """From now on the server looks at credentials, as real ones do."""
    httpx.post(f"{s3.url}/moto-api/reset-auth", content=b"0", trust_env=False)
    yield
    httpx.post(f"{s3.url}/moto-api/reset-auth", content=b"1000000", trust_env=False)


def test_wrong_credentials_are_refused(quick: None, bucket_url: str, strict: None, tmp_path: Path) -> None:
    expect(StorageRefused, Bucket(bucket_url), tmp_path)


def test_credentials_come_from_the_files_that_every_s3_client_reads(
    bucket_url: str, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("[team]\naws_access_key_id = fromfile\naws_secret_access_key = s\n")
    chosen = {"AWS_ENDPOINT_URL": s3.url, "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}
    chosen |= {"AWS_PROFILE": "team", "AWS_CONFIG_FILE": os.devnull, "AWS_REGION": "eu-central-1"}
    set_environment(monkeypatch, chosen)

    assert "Credential=fromfile%2F" in Bucket(bucket_url).link("x", 60)
    assert "%2Feu-central-1%2Fs3%2F" in Bucket(bucket_url).link("x", 60)
    Bucket(bucket_url).ping()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageRefused, match="nobody"):
        Bucket(bucket_url)


# Links


def test_a_link_gives_the_file_to_anybody_for_a_while(artifacts: ObjectArtifacts, tmp_path: Path) -> None:
    stage(artifacts, 1, **{"report.html": b"0123456789"})
    artifacts.publish(JOB, 1)

    link = artifacts.link(JOB, "report.html")

    assert link is not None
    assert "X-Amz-Expires=60&" in link
    answer = httpx.get(link, headers={"Range": "bytes=2-4"}, trust_env=False)
    assert (answer.status_code, answer.content) == (206, b"234")
    assert answer.headers["content-disposition"] == 'attachment; filename="report.html"'
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["x-amz-meta-sha256"] == hashlib.sha256(b"0123456789").hexdigest()


def test_links_name_the_address_that_clients_reach(bucket_url: str, tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        storage_url=bucket_url,
        storage_redirect=True,
        storage_link_seconds=120,
        storage_public_endpoint="https://files.example.org",
    )
    artifacts = open_storage(settings, utc_now).artifacts
    folder = artifacts.staging(JOB, 1)
    (folder / "a").write_bytes(b"abc")
    artifacts.publish(JOB, 1)

    link = artifacts.link(JOB, "a")

    assert link is not None
    assert link.startswith("https://files.example.org/")
    assert "X-Amz-Expires=120&" in link
    streaming = settings.model_copy(update={"storage_redirect": False})
    assert open_storage(streaming, utc_now).artifacts.link(JOB, "a") is None


# Corpora


def test_a_corpus_is_fetched_once_and_read_from_the_copy(corpora: ObjectCorpora, bucket: Bucket, s3: S3Server) -> None:
    corpus = corpora.add(iter([b"text"]), "text", None)
    path = corpora.path(corpus.id)
    asked = s3.log.read_text().count("GET ")

    assert corpora.path(corpus.id) == path
    assert path.read_bytes() == b"text"
    assert s3.log.read_text().count("GET ") == asked + 1, "the record alone"


def test_a_damaged_corpus_is_never_handed_out(corpora: ObjectCorpora, bucket: Bucket, tmp_path: Path) -> None:
    corpus = corpora.add(iter([b"text"]), "text", None)
    (key,) = (key for key in keys(bucket) if key.startswith("corpora/contents/"))
    bucket.put(key, b"tent")

    with pytest.raises(InternalError, match="damaged"):
        corpora.path(corpus.id)
    assert list((tmp_path / "cache").iterdir()) == []


def test_texts_without_a_record_go_after_a_day(
    corpora: ObjectCorpora, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = corpora.add(iter([b"kept"]), "text", None)
    bucket.put(f"corpora/contents/corpus_{secrets.token_hex(16)}.broken", b"half")
    monkeypatch.setattr("service.adapters.files.object_corpora.ABANDONED_SECONDS", -1.0)

    corpora.add(iter([b"more"]), "text", None)

    assert not [key for key in keys(bucket) if key.endswith(".broken")]
    assert corpora.path(kept.id).read_bytes() == b"kept"


# The server itself stops


def test_a_server_that_stops_and_comes_back_loses_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server(tmp_path / "log") as server:
        set_environment(monkeypatch, server.environment)
        server.make_bucket("bucket")
        bucket = Bucket("s3://bucket")
        server._process.send_signal(signal.SIGSTOP)
        monkeypatch.setitem(bucket_module.CLIENT, "timeout", "300ms")
        with pytest.raises(StorageUnavailable):
            Bucket("s3://bucket").read("x")
        server._process.send_signal(signal.SIGCONT)
        bucket.put("x", b"1")
        assert bucket.read("x") == b"1"
