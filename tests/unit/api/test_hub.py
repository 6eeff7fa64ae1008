"""The hub's routes, header by header. Real clients: tests/integration/test_hub_clients.py."""

import hashlib
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.dependencies import Services
from api.routes import hub
from service.records.job import Job
from tests.factories import add_running_job
from tests.hub_server import publish
from tests.in_memory.job_store import MemoryJobStore

CONTENT = bytes(range(256)) * 4
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
FILE = "/hub/acme/slim/resolve/main/sub/weights.bin"
INFO = "/hub/api/models/acme/slim"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source/sub/deep").mkdir(parents=True)
    (tmp_path / "source/sub/weights.bin").write_bytes(CONTENT)
    (tmp_path / "source/sub/deep/note.txt").write_text("note")
    (tmp_path / "source/config.json").write_text("{}")
    return tmp_path / "source"


@pytest.fixture
def job(services: Services, folder: Path) -> Job:
    return publish(services, folder, publish={"repo": "acme/slim"})


@pytest.fixture
def commit(client: TestClient, job: Job) -> str:
    return str(client.get(INFO).json()["sha"])


def test_the_info_has_what_clients_need(client: TestClient, commit: str) -> None:
    info = client.get(INFO).json()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert info["id"] == "acme/slim"
    assert (info["private"], info["gated"]) == (False, False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", info["lastModified"])
    assert {"config.json", "sub/weights.bin"} < {file["rfilename"] for file in info["siblings"]}
    assert client.get(f"{INFO}/revision/r30").json() == info == client.get(f"{INFO}/revision/{commit}").json()


def test_the_same_files_are_the_same_commit_and_others_are_not(
    client: TestClient, services: Services, folder: Path, commit: str
) -> None:
    publish(services, folder, publish={"repo": "acme/slim"})
    assert client.get(INFO).json()["sha"] == commit
    (folder / "config.json").write_text('{"a": 1}')
    publish(services, folder, publish={"repo": "acme/slim"})
    assert client.get(INFO).json()["sha"] != commit
    assert client.get(f"{INFO}/revision/{commit}").json()["sha"] == commit


def test_a_file_of_the_tree_has_the_ids_that_git_would_give_it(client: TestClient, commit: str) -> None:
    tree = {entry["path"]: entry for entry in client.get(f"{INFO}/tree/{commit}?recursive=True").json()}
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{ETAG[1:-1]}\nsize 1024\n"
    file = tree["sub/weights.bin"]
    assert file["lfs"]["oid"] == ETAG[1:-1]
    assert file["lfs"]["pointerSize"] == len(pointer)
    assert file["oid"] == hashlib.sha1(f"blob {len(pointer)}\0{pointer}".encode()).hexdigest()
    assert "xetHash" not in file
    assert tree["sub"]["type"] == tree["sub/deep"]["type"] == "directory"


@pytest.mark.parametrize(
    ("below", "recursive", "paths"),
    [
        ("", False, {"sub", "config.json"}),
        ("", True, {"sub", "sub/deep", "config.json", "sub/weights.bin", "sub/deep/note.txt"}),
        ("/sub", False, {"sub/deep", "sub/weights.bin"}),
        ("/sub", True, {"sub/deep", "sub/weights.bin", "sub/deep/note.txt"}),
        ("/sub/deep/", False, {"sub/deep/note.txt"}),
    ],
)
def test_the_tree_is_listed_by_folder(
    client: TestClient, commit: str, below: str, recursive: bool, paths: set[str]
) -> None:
    listed = client.get(f"{INFO}/tree/main{below}", params={"recursive": recursive}).json()
    assert {entry["path"] for entry in listed} == paths


def test_the_tree_comes_in_pages(client: TestClient, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = client.get(f"{INFO}/tree/main?recursive=true").json()
    url, listed = f"{INFO}/tree/main?recursive=true&limit=2", []
    while url:
        answer = client.get(url)
        listed += answer.json()
        url = answer.links.get("next", {}).get("url", "")
    assert listed == whole
    assert client.get(f"{INFO}/tree/main?limit={hub.PAGE_ENTRIES + 1}").status_code == 422


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_carries_its_commit_and_hash(client: TestClient, commit: str, method: str) -> None:
    answer = client.request(method, FILE)
    assert answer.status_code == 200
    assert answer.content == (CONTENT if method == "GET" else b"")
    assert answer.headers["x-repo-commit"] == commit
    assert answer.headers["etag"] == answer.headers["x-linked-etag"] == ETAG
    assert answer.headers["content-length"] == answer.headers["x-linked-size"] == "1024"
    assert "x-xet-hash" not in answer.headers
    assert "content-encoding" not in answer.headers


def test_the_first_byte_alone_tells_commit_and_size(client: TestClient, commit: str) -> None:
    answer = client.get(FILE, headers={"range": "bytes=0-0"})
    assert (answer.status_code, answer.content) == (206, CONTENT[:1])
    assert answer.headers["content-range"] == "bytes 0-0/1024"
    assert (answer.headers["x-repo-commit"], answer.headers["etag"]) == (commit, ETAG)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"range": "bytes=5-2"}, 200),
        ({"range": "items=0-1"}, 200),
        ({"range": "bytes=0-9", "if-range": ETAG}, 206),
        ({"range": "bytes=0-9", "if-range": '"other"'}, 200),
        ({"if-none-match": ETAG}, 304),
        ({"range": "bytes=1024-"}, 416),
    ],
)
def test_conditions_and_ranges_keep_the_commit(
    client: TestClient, commit: str, headers: dict[str, str], status: int
) -> None:
    answer = client.get(FILE, headers=headers)
    assert answer.status_code == status
    assert (answer.headers["x-repo-commit"], answer.headers["etag"]) == (commit, ETAG)
    if status == 416:
        assert answer.headers["content-range"] == "bytes */1024"
        assert answer.json() == {"error": "sub/weights.bin has 1024 bytes"}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/acme/gone", "RepoNotFound"),
        ("/api/models/acme/sl%00im", "RepoNotFound"),
        ("/acme/gone/resolve/main/config.json", "RepoNotFound"),
        ("/api/models/acme/slim/revision/gone", "RevisionNotFound"),
        ("/api/models/acme/slim/revision/refs%2Fpr%2F1", "RevisionNotFound"),
        ("/acme/slim/resolve/refs%2Fpr%2F1/config.json", "RevisionNotFound"),
        ("/acme/slim/resolve/main/gone", "EntryNotFound"),
        ("/acme/slim/resolve/main/sub", "EntryNotFound"),
        ("/acme/slim/resolve/main/..%2Fmanifest.json", "EntryNotFound"),
        ("/api/models/acme/slim/tree/main/additional_chat_templates", "EntryNotFound"),
    ],
)
def test_what_is_missing_is_named_in_the_way_clients_read(
    client: TestClient, commit: str, path: str, code: str
) -> None:
    answer = client.get(f"/hub{path}", headers={"x-request-id": "abc"})
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, code)
    assert answer.json() == {"error": answer.headers["x-error-message"]}
    assert answer.headers.get("x-repo-commit") == (commit if code == "EntryNotFound" else None)
    assert answer.headers["x-request-id"] == "abc"


def test_a_database_that_is_away_is_told_in_the_same_form(client: TestClient, services: Services, job: Job) -> None:
    assert isinstance(services.store, MemoryJobStore)
    services.store.away = True
    answer = client.get(INFO)
    assert (answer.status_code, answer.json()) == (503, {"error": answer.headers["x-error-message"]})
    assert "retry-after" in answer.headers


def test_files_of_a_job_that_has_not_succeeded_are_no_repository(client: TestClient, services: Services) -> None:
    running = add_running_job(services.store)
    (services.artifacts.staging(running.id, 1) / "config.json").write_text("{}")
    services.artifacts.publish(running.id, 1)
    assert client.get(f"/hub/api/models/{running.repository}").headers["x-error-code"] == "RepoNotFound"


def test_a_job_and_the_list_of_models_name_the_repository(
    client: TestClient, services: Services, folder: Path, job: Job
) -> None:
    unnamed = publish(services, folder)
    assert unnamed.repository == f"headroom/tiny-{unnamed.id[4:12]}"
    assert client.get(f"/hub/api/models/{unnamed.repository}").json()["id"] == unnamed.repository
    assert client.get(f"/v1/jobs/{job.id}").json()["links"]["hub"] == "acme/slim"
    outputs = [model for model in client.get("/v1/models").json()["data"] if model["kind"] == "output"]
    assert [model["repository"] for model in outputs] == [unnamed.repository, "acme/slim"]
    waiting = add_running_job(services.store)
    assert client.get(f"/v1/jobs/{waiting.id}").json()["links"]["hub"] is None
