import gzip
import hashlib
from collections.abc import Iterator

import pytest
import zstandard
from fastapi.testclient import TestClient

from api.dependencies import Services
from tests.factories import make_job, make_recipe

TEXT = "Fünf Wörter über das Wetter.\n".encode()
PLAIN = {"content-type": "text/plain; charset=utf-8"}


def test_an_upload_is_stored_and_told(client: TestClient, services: Services) -> None:
    answer = client.post("/v1/corpora", content=TEXT, headers=PLAIN)
    assert answer.status_code == 201
    corpus = answer.json()
    assert answer.headers["location"] == f"/v1/corpora/{corpus['id']}"
    assert corpus["sha256"] == hashlib.sha256(TEXT).hexdigest()
    assert (corpus["size"], corpus["format"], corpus["field"]) == (len(TEXT), "text", None)
    assert client.get(answer.headers["location"]).json() == corpus
    assert client.get("/v1/corpora").json() == {"data": [corpus]}
    assert services.corpora.path(corpus["id"]).read_bytes() == TEXT


def test_the_same_text_again_is_the_same_corpus(client: TestClient) -> None:
    first = client.post("/v1/corpora", content=TEXT, headers=PLAIN)
    second = client.post("/v1/corpora", content=TEXT, headers=PLAIN)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()


@pytest.mark.parametrize(
    ("encoding", "compressed"),
    [
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("zstd", zstandard.compress(TEXT)),
        ("identity", TEXT),
        ("GZIP", gzip.compress(TEXT, mtime=0)),
    ],
)
def test_a_compressed_upload_is_the_same_corpus(client: TestClient, encoding: str, compressed: bytes) -> None:
    plain = client.post("/v1/corpora", content=TEXT, headers=PLAIN).json()
    answer = client.post("/v1/corpora", content=compressed, headers=PLAIN | {"content-encoding": encoding})
    assert answer.json() == plain


@pytest.mark.parametrize("content_type", ["application/jsonl", "application/x-ndjson"])
def test_json_lines_name_their_field(client: TestClient, content_type: str) -> None:
    lines = b'{"body": "one"}\n{"body": "two"}\n'
    answer = client.post("/v1/corpora?field=body", content=lines, headers={"content-type": content_type})
    assert answer.status_code == 201
    assert (answer.json()["format"], answer.json()["field"]) == ("jsonl", "body")


def test_an_upload_in_many_chunks_is_put_together(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for byte in TEXT:
            yield bytes([byte])

    answer = client.post("/v1/corpora", content=chunks(), headers=PLAIN)
    assert answer.json()["sha256"] == hashlib.sha256(TEXT).hexdigest()


@pytest.mark.parametrize(
    ("content", "headers", "query", "status", "code"),
    [
        (b"", PLAIN, "", 422, "corpus_empty"),
        (b" \n ", PLAIN, "", 422, "corpus_empty"),
        (b"\xff\xfe\x00", PLAIN, "", 422, "corpus_not_text"),
        (b"not json", {"content-type": "application/jsonl"}, "", 422, "corpus_not_text"),
        (b'{"a": 1}', {"content-type": "application/jsonl"}, "?field=a", 422, "corpus_not_text"),
        (b"not gzip", PLAIN | {"content-encoding": "gzip"}, "", 422, "corpus_not_text"),
        (gzip.compress(b"x" * 5_000_000, mtime=0), PLAIN | {"content-encoding": "gzip"}, "", 413, "corpus_too_large"),
        (TEXT, PLAIN | {"content-encoding": "br"}, "", 415, "unsupported_media_type"),
        (TEXT, PLAIN | {"content-encoding": "gzip, gzip"}, "", 415, "unsupported_media_type"),
        (TEXT, {"content-type": "application/octet-stream"}, "", 415, "unsupported_media_type"),
        (TEXT, {}, "", 415, "unsupported_media_type"),
        (TEXT, PLAIN, "?field=text", 422, "invalid_request"),
        (TEXT, {"content-type": "application/jsonl"}, "?field=", 422, "invalid_request"),
    ],
)
def test_a_bad_upload_is_refused_and_leaves_nothing(
    client: TestClient, services: Services, content: bytes, headers: dict[str, str], query: str, status: int, code: str
) -> None:
    answer = client.post(f"/v1/corpora{query}", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert services.corpora.all() == []
    assert list((services.data_dir / "corpora").glob("incoming/*")) == []


def test_a_corpus_is_deleted_unless_a_job_needs_it(client: TestClient, services: Services) -> None:
    corpus_id = client.post("/v1/corpora", content=TEXT, headers=PLAIN).json()["id"]
    job = make_job(recipe=make_recipe(corpus=corpus_id))
    services.store.add(job)
    refused = client.delete(f"/v1/corpora/{corpus_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "corpus_in_use")

    services.store.request_cancel(job.id)
    deleted = client.delete(f"/v1/corpora/{corpus_id}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(f"/v1/corpora/{corpus_id}").status_code == 404
    assert client.delete(f"/v1/corpora/{corpus_id}").status_code == 404


@pytest.mark.parametrize("corpus_id", ["corpus_" + "0" * 32, "nope", "..", "%2e%2e", "incoming", "%00"])
def test_a_corpus_that_is_not_there_is_not_found(client: TestClient, corpus_id: str) -> None:
    assert client.get(f"/v1/corpora/{corpus_id}").status_code == 404
    assert client.delete(f"/v1/corpora/{corpus_id}").status_code in (404, 405)
