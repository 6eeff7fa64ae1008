"""One trace from the request to every phase, as a collector receives it from the real processes."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from headroom.local.embedded import EmbeddedServer
from tests.otlp_receiver import Received, Receiver, receiving
from tests.tiny_models import make_tiny_checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

PHASES = ["fetching", "encoding", "analyzing", "sweeping", "slicing", "validating", "publishing"]
JOB = {
    "model": "acme/tiny",
    "ratio": 0.5,
    "corpus": {"text": "the head of a model is wide " * 2000},
    "drift": {"perplexity": 10, "kl": None},
    "options": {"calibration_tokens": 2048, "evaluation_tokens": 2048, "window": 64},
}
PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "acme=7"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[httpx.Client]:
    tmp_path = tmp_path_factory.mktemp("tracing")
    make_tiny_checkpoint(tmp_path / "models/acme/tiny")
    make_tiny_checkpoint(tmp_path / "models/acme/broken")
    # Its header is whole, so it is accepted; that it cannot be loaded shows in the middle of the job.
    config = tmp_path / "models/acme/broken/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"n_head": 7, "num_attention_heads": 7}))
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "HEADROOM_HUB_ENDPOINT": "",
        "HEADROOM_SWEEP_SECONDS": "0.3",
    }
    with (
        set_variables(variables),
        EmbeddedServer(tmp_path / "data", tmp_path / "models", port=0) as server,
        httpx.Client(base_url=server.url, timeout=30, trust_env=False) as running,
    ):
        yield running


@contextmanager
def set_variables(variables: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as context:
        for name, value in variables.items():
            context.setenv(name, value)
        yield


def run(client: httpx.Client, job: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    posted = client.post("/v1/jobs", json=job, headers=headers)
    assert posted.status_code == 202, posted.text
    while True:
        ended: dict[str, Any] = client.get(f"/v1/jobs/{posted.json()['id']}").json()
        if ended["finished"]:
            return ended
        time.sleep(0.1)


def wait_for_attempt(receiver: Receiver, job_id: str) -> Received:
    """It leaves last: when it is here, so are its phases."""
    deadline = time.monotonic() + 20
    while True:
        found = [span for span in receiver.named("attempt") if span.attributes["headroom.job_id"] == job_id]
        if found:
            return found[0]
        assert time.monotonic() < deadline, receiver.spans
        time.sleep(0.05)


def test_a_job_is_one_trace_from_its_request_to_every_phase(client: httpx.Client, receiver: Receiver) -> None:
    ended = run(client, JOB, headers=PARENT)
    assert ended["status"] == "succeeded", ended

    attempt = wait_for_attempt(receiver, ended["id"])

    (request,) = [span for span in receiver.named("POST /v1/jobs") if span.trace == attempt.trace]
    assert (request.trace, request.parent) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (request.service, attempt.service) == ("headroom-api", "headroom-worker")
    assert (attempt.trace, attempt.parent) == (request.trace, request.id)
    assert attempt.attributes["headroom.outcome"] == "succeeded"
    phases = [span for span in receiver.spans if span.parent == attempt.id]
    assert [span.name for span in phases] == PHASES
    for span in phases:
        said = {name.removeprefix("headroom."): value for name, value in span.attributes.items()}
        assert (said["job_id"], said["attempt"], said["kind"], said["model"]) == (
            ended["id"],
            1,
            "compress",
            "acme/tiny",
        )
        assert not span.is_error
    assert phases[0].attributes["headroom.model_bytes"] > 1000
    assert phases[0].attributes["headroom.corpus_bytes"] == len(JOB["corpus"]["text"])
    files = client.get(f"/v1/jobs/{ended['id']}/files").json()["data"]
    assert phases[-1].attributes["headroom.published_bytes"] == sum(file["size"] for file in files)
    assert sum(span.seconds for span in phases) <= attempt.seconds
    assert [span.name for span in receiver.spans if "readyz" in span.name] == []


def test_a_failed_job_names_its_error_in_the_phase_and_in_the_attempt(client: httpx.Client, receiver: Receiver) -> None:
    ended = run(client, JOB | {"model": "acme/broken"})
    assert ended["status"] == "failed", ended

    attempt = wait_for_attempt(receiver, ended["id"])

    (phase,) = [span for span in receiver.spans if span.parent == attempt.id and span.is_error]
    assert phase.name == ended["error"]["phase"]
    assert attempt.is_error
    for span in (phase, attempt):
        assert (span.attributes["error.type"], span.message) == (ended["error"]["code"], ended["error"]["message"])


def test_without_a_collector_the_sdk_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    script = (
        "import sys; from pathlib import Path; from api.main import build_app; "
        "from service.foundation.settings import Settings;"
        "from workers.wiring import open_parts; s = Settings(data_dir=Path(sys.argv[1])); build_app(s); open_parts(s);"
        "import workers.processes.job_process;"
        "ours = ('sdk.trace', 'exporter', 'instrumentation');"  # redis takes the rest
        "sys.exit(str([m for m in sys.modules if m.startswith(tuple('opentelemetry.' + o for o in ours))] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.stderr.strip() == ""
