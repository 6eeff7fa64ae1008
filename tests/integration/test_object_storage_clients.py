"""Files in an object store, to every client: through the API with ranges, or sent on by a signed link."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from huggingface_hub import snapshot_download

from headroom.client.connection import Connection
from headroom.client.downloads import download_files
from headroom.contract.answers.stored import FileView
from service.adapters.files import bucket as bucket_module
from service.adapters.files.bucket import READ_BYTES, Bucket
from service.adapters.files.object_artifacts import ObjectArtifacts
from service.records.job import Job
from tests.hub_server import HubServer, make_services, publish
from tests.s3_server import S3Server

CONTENT = os.urandom(READ_BYTES + 1000)
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture(params=[0.0, 60.0], ids=["streamed", "redirected"])
def artifacts(request: pytest.FixtureRequest, bucket_url: str, tmp_path: Path) -> ObjectArtifacts:
    return ObjectArtifacts(Bucket(bucket_url), tmp_path / "staging", link_seconds=request.param)


@pytest.fixture
def published(artifacts: ObjectArtifacts, tmp_path: Path) -> Iterator[tuple[HubServer, Job]]:
    """A server whose disk holds nothing, and a job whose files are in the store."""
    services = replace(make_services(tmp_path / "api"), artifacts=artifacts)
    (tmp_path / "files" / "plots").mkdir(parents=True)
    (tmp_path / "files" / "model.safetensors").write_bytes(CONTENT)
    (tmp_path / "files" / "plots" / "a+b c.svg").write_text("<svg/>")
    (tmp_path / "files" / "empty.txt").touch()
    job = publish(services, tmp_path / "files", publish={"repo": "acme/sliced"})
    with HubServer(services) as server:
        yield server, job


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


def url_of(published: tuple[HubServer, Job]) -> str:
    server, job = published
    return f"{server.url.removesuffix('/hub')}/v1/jobs/{job.id}/files/model.safetensors"


def test_our_client_downloads_and_verifies(published: tuple[HubServer, Job], tmp_path: Path) -> None:
    server, job = published

    route = f"/v1/jobs/{job.id}/files"
    connection = Connection(server.url.removesuffix("/hub"), "a-key", 20.0)

    files = [FileView.read(item) for item in connection.json("GET", route)["data"]]
    download_files(connection, route, files, tmp_path / "out")
    connection.close()

    assert (tmp_path / "out" / "model.safetensors").read_bytes() == CONTENT
    assert (tmp_path / "out" / "plots" / "a+b c.svg").read_text() == "<svg/>"
    assert (tmp_path / "out" / "empty.txt").read_bytes() == b""


def test_hub_clients_download_a_snapshot(published: tuple[HubServer, Job], tmp_path: Path) -> None:
    server, _ = published

    cache = tmp_path / "cache"
    folder = Path(snapshot_download("acme/sliced", endpoint=server.url, cache_dir=cache, token="hf_secret"))

    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert (folder / "model.safetensors").resolve().name == ETAG.strip('"')
    assert (folder / "plots" / "a+b c.svg").read_text() == "<svg/>"


@pytest.mark.parametrize("artifacts", [60.0], indirect=True)
def test_a_link_carries_our_headers_and_no_key(
    published: tuple[HubServer, Job], s3: S3Server, http: httpx.Client
) -> None:
    server, _ = published

    answer = http.get(f"{server.url}/acme/sliced/resolve/main/model.safetensors")

    assert answer.status_code == 302
    assert answer.headers["location"].startswith(s3.url)
    assert answer.headers["etag"] == answer.headers["x-linked-etag"] == ETAG
    assert answer.headers["x-linked-size"] == str(len(CONTENT))
    assert len(answer.headers["x-repo-commit"]) == 40
    assert answer.headers["cache-control"] == "no-store"
    part = http.get(url_of(published), headers={"Range": "bytes=5-9"}, follow_redirects=True)
    assert (part.status_code, part.content) == (206, CONTENT[5:10])


@pytest.mark.parametrize("artifacts", [60.0], indirect=True)
def test_what_depends_on_our_etag_is_answered_here(published: tuple[HubServer, Job], http: httpx.Client) -> None:
    url = url_of(published)

    head = http.head(url)
    unchanged = http.get(url, headers={"If-None-Match": ETAG})
    part = http.get(url, headers={"Range": "bytes=5-9", "If-Range": ETAG})
    beyond = http.get(url, headers={"Range": f"bytes={len(CONTENT)}-"})

    assert (head.status_code, head.headers["content-length"]) == (200, str(len(CONTENT)))
    assert unchanged.status_code == 304
    assert (part.status_code, part.content) == (206, CONTENT[5:10])
    assert beyond.status_code == 416


@pytest.mark.parametrize("artifacts", [0.0], indirect=True)
def test_ranges_are_streamed_and_small_ones_ask_for_little(
    published: tuple[HubServer, Job], http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = Bucket.range

    def counted(bucket: Bucket, key: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return whole(bucket, key, start, end)

    monkeypatch.setattr(Bucket, "range", counted)

    tail = http.get(url_of(published), headers={"Range": "bytes=-10"})
    assert (tail.status_code, tail.content) == (206, CONTENT[-10:])
    assert asked == [10]
    assert http.get(url_of(published)).content == CONTENT
    assert asked == [10, READ_BYTES, 1000]


@pytest.mark.parametrize("artifacts", [0.0], indirect=True)
def test_a_store_that_is_away_is_a_503_with_its_code(
    published: tuple[HubServer, Job],
    artifacts: ObjectArtifacts,
    tmp_path: Path,
    http: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(bucket_module.RETRIES, "max_retries", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(artifacts, "_bucket", Bucket("s3://gone"))

    answer = http.get(url_of(published))
    ready = http.get(f"{published[0].url.removesuffix('/hub')}/readyz").json()

    assert answer.status_code == 503
    assert answer.json()["code"] == "storage_unavailable"
    assert "127.0.0.1" not in answer.text
    assert answer.headers["retry-after"]
    assert ready["checks"]["storage"] == {"ok": False, "detail": answer.json()["detail"]}
