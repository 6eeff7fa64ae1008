"""Whatever the API offers, the client offers: each operation of the OpenAPI document is reached by a method."""

import json
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from headroom.client.client import Client
from headroom.errors import HeadroomError
from tests.openapi_document import openapi_text
from tests.reports import make_report

if TYPE_CHECKING:
    from tests.unit.headroom.conftest import Hand

# Operations without a method, and why.
EXCEPTIONS = {
    "POST /session": "signs a browser in; a client sends its key with every request",
    "DELETE /session": "signs a browser out",
    "GET /livez": "for what watches processes; readiness() says more",
    "GET /metrics": "for Prometheus",
}


def operations() -> dict[str, re.Pattern[str]]:
    paths: dict[str, Any] = json.loads(openapi_text())["paths"]
    return {
        f"{method.upper()} {path}": re.compile(re.sub(r"\{\w+\}", "[^/]+", path.replace("{path}", ".+")))
        for path, methods in paths.items()
        for method in methods
    }


def test_every_operation_has_a_method_of_the_client(client: Client, hand: "Hand", corpus: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def note(request: httpx.Request) -> None:
        asked.append((request.method, request.url.path))

    client._connection._http.event_hooks = {"request": [note]}
    uploaded = client.upload_corpus(corpus)
    job = client.compress("acme/tiny", uploaded.id, ratio=0.5)
    hand.start(job.id)
    hand.services.store.save_report(job.id, 1, make_report({0.5: 0.001}, 0.5))
    assert "drift" in job.figures()
    hand.succeed(job.id)
    calls: list[Callable[[], Any]] = [
        client.corpora,
        lambda: client.corpus(uploaded.id),
        lambda: list(client.jobs(kind="compress", labels={})),
        lambda: next(islice(client.changes(), 1)),
        job.refresh,
        lambda: list(job.events()),
        job.report,
        lambda: job.download(tmp_path / "out"),
        client.models,
        client.audit,
        client.readiness,
        client.session,
        lambda: client.compress("acme/tiny", uploaded.id, ratio=0.5).cancel(),
        lambda: client.delete_corpus(uploaded.id),
    ]
    for call in calls:
        call()
    job.deliveries()
    with pytest.raises(HeadroomError):  # it asked for no webhook
        job.replay_delivery(1)
    job.delete()

    reached = {
        name
        for name, path in operations().items()
        if any(method == name.split()[0] and path.fullmatch(where) for method, where in asked)
    }
    assert sorted(operations().keys() - reached) == sorted(EXCEPTIONS)
