import hashlib
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.answers import downloads
from api.dependencies import Services
from headroom.contract.answers.job import Status
from tests.factories import make_job

CONTENT = bytes(range(256)) * 4
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture
def url(services: Services) -> str:
    """The address of `model.safetensors` of a job that has succeeded."""
    job = make_job()
    services.store.add(job)
    assert services.store.claim(job.id, "w", 60)
    staging = services.artifacts.staging(job.id, 1)
    (staging / "model.safetensors").write_bytes(CONTENT)
    (staging / "empty.txt").write_bytes(b"")
    (staging / "sub").mkdir()
    (staging / 'sub/naïve "name".md').write_text("hello")
    services.artifacts.publish(job.id, 1)
    services.store.finish(job.id, 1, Status.SUCCEEDED, {}, None)
    return f"/v1/jobs/{job.id}/files/model.safetensors"


def test_files_are_listed_with_size_and_hash(client: TestClient, url: str) -> None:
    listed = client.get(url.rsplit("/", 1)[0]).json()["data"]
    assert {"path": "model.safetensors", "size": 1024, "sha256": ETAG.strip('"')} in listed
    assert len(listed) == 3


def test_a_whole_file_is_sent_with_its_hash_as_etag(
    client: TestClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 100)
    answer = client.get(url)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["etag"] == ETAG
    assert answer.headers["content-length"] == "1024"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == 'attachment; filename="model.safetensors"'
    assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=1000-99999", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-99999", 0, 1024),
        ("BYTES=0-", 0, 1024),
        ("bytes= 5-6 ", 5, 7),
    ],
)
def test_a_range_is_sent_alone(client: TestClient, url: str, asked: str, start: int, end: int) -> None:
    answer = client.get(url, headers={"range": asked})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1024"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["etag"] == ETAG


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=5-2",
        "bytes=-",
        "bytes=",
        "bytes",
        "items=0-1",
        "bytes=a-b",
        "bytes=0-1,5-6",
        "bytes=1.5-2",
        "0-1",
        "bytes=٣-٤",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_a_range_that_makes_no_sense_is_ignored(client: TestClient, url: str, asked: str) -> None:
    answer = client.get(url, headers={"range": asked.encode()})
    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=-0", "bytes=" + "9" * 30 + "-"])
def test_a_range_outside_of_the_file_is_refused_with_its_size(client: TestClient, url: str, asked: str) -> None:
    answer = client.get(url, headers={"range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */1024"
    assert answer.headers["etag"] == ETAG


@pytest.mark.parametrize(
    ("condition", "status"),
    [(ETAG, 206), ('"other"', 200), (f"W/{ETAG}", 200), ("Tue, 15 Nov 1994 12:45:26 GMT", 200)],
)
def test_a_range_holds_only_for_the_file_the_client_has(
    client: TestClient, url: str, condition: str, status: int
) -> None:
    answer = client.get(url, headers={"range": "bytes=0-9", "if-range": condition})
    assert answer.status_code == status
    assert answer.content == (CONTENT[:10] if status == 206 else CONTENT)


@pytest.mark.parametrize("condition", [ETAG, f"W/{ETAG}", "*", f'"a", {ETAG}'])
def test_a_copy_that_is_current_is_not_sent_again(client: TestClient, url: str, condition: str) -> None:
    answer = client.get(url, headers={"if-none-match": condition, "range": "bytes=0-9"})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", ETAG)


def test_another_etag_gets_the_file(client: TestClient, url: str) -> None:
    assert client.get(url, headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=0-9"}, {"range": "bytes=9999-"}])
def test_head_tells_of_the_whole_file(client: TestClient, url: str, headers: dict[str, str]) -> None:
    answer = client.head(url, headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "1024"
    assert answer.headers["etag"] == ETAG


def test_an_empty_file_is_sent_and_has_no_ranges(client: TestClient, url: str) -> None:
    empty = url.replace("model.safetensors", "empty.txt")
    assert client.get(empty).content == b""
    assert client.get(empty, headers={"range": "bytes=0-"}).status_code == 416
    assert client.get(empty, headers={"range": "bytes=-5"}).status_code == 200


def test_a_name_beyond_ascii_does_not_break_the_headers(client: TestClient, url: str) -> None:
    answer = client.get(url.replace("model.safetensors", "sub/naïve%20%22name%22.md"))
    assert answer.text == "hello"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"na_ve _name_.md\"; filename*=UTF-8''na%C3%AFve%20%22name%22.md"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["gone", "../manifest.json", "..%2fmanifest.json", "%2e%2e/manifest.json", "/etc/passwd", "sub", "a%00b", ""],
)
def test_nothing_but_a_published_file_is_ever_sent(client: TestClient, url: str, path: str) -> None:
    answer = client.get(url.replace("model.safetensors", path))
    assert answer.status_code == 404


def test_files_of_a_job_that_has_not_succeeded_are_not_shown(client: TestClient, services: Services) -> None:
    job = make_job()
    services.store.add(job)
    assert services.store.claim(job.id, "w", 60)
    (services.artifacts.staging(job.id, 1) / "config.json").write_text("{}")
    services.artifacts.publish(job.id, 1)
    assert client.get(f"/v1/jobs/{job.id}/files").json() == {"data": []}
    assert client.get(f"/v1/jobs/{job.id}/files/config.json").json()["code"] == "file_not_found"


def test_a_file_that_shrank_breaks_the_connection_rather_than_end_early(
    client: TestClient, services: Services, url: str
) -> None:
    location = _location(services, url)
    location.chmod(0o644)
    location.write_bytes(CONTENT[:100])
    with pytest.raises(OSError, match="shorter"):
        client.get(url)


def _location(services: Services, url: str) -> Path:
    job_id = url.split("/")[3]
    with services.artifacts.open(job_id, "model.safetensors") as file:
        return Path(file.name)
