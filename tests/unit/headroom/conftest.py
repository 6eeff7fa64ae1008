"""The real API over in-memory adapters, served to real clients; a hand takes the place of the worker."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from anyio import CapacityLimiter

from api.app import create_app
from api.dependencies import Services
from headroom.client.client import Client
from headroom.contract.answers.job import JobError, Phase, Status
from headroom.contract.report.report import open_report
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.remote.local_models import LocalModels
from service.reports.summaries import summarize
from tests.factories import write_model_files
from tests.in_memory.access import MemoryHolds, MemoryKeys
from tests.in_memory.audit import MemoryAudit
from tests.in_memory.job_store import MemoryJobStore
from tests.in_memory.queue import MemoryQueue
from tests.reports import make_report as make_whole_report


def now() -> datetime:
    return datetime.now(UTC)


def make_report(passes: bool = True) -> dict[str, Any]:
    """A report of two measured ratios, 0.3 within 1 % and 0.5 over it; the first is selected if it shall pass."""
    drifts = {0.3: 0.001, 0.5: 0.03}
    report = make_whole_report(drifts, 0.3, hidden=16)
    curve = [
        point
        | {"kept_columns": kept, "perplexity_drift_low": drift / 2, "perplexity_drift_high": drift * 2}
        | {"top1_agreement": 0.99}
        for point, kept, drift in zip(report["curve"], (12, 8), drifts.values(), strict=True)
    ]
    return report | {"curve": curve, "selected": curve[0 if passes else 1] | {"passes": passes}}


@dataclass
class Hand:
    """Moves jobs by hand, as a worker would."""

    services: Services

    def newest(self) -> str:
        from service.ports.jobs import JobFilter

        return self.services.store.page(JobFilter(), 1, None).jobs[0].id

    def start(self, job_id: str) -> None:
        assert self.services.store.claim(job_id, "hand", 30.0) is not None

    def advance(self, job_id: str, phase: Phase, progress: float) -> None:
        self.services.store.report_progress(job_id, 1, phase, progress)

    def succeed(self, job_id: str, files: dict[str, bytes] | None = None) -> None:
        report = make_report()
        folder = self.services.artifacts.staging(job_id, 1)
        contents = {"config.json": b"{}", "report.json": json.dumps(report).encode()} | (files or {})
        contents["headroom.json"] = json.dumps({"files": dict.fromkeys(contents, "")}).encode()
        for name, data in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        self.services.artifacts.publish(job_id, 1)
        self._end(job_id, Status.SUCCEEDED, report)

    def reject(self, job_id: str) -> None:
        self._end(job_id, Status.REJECTED, make_report(passes=False))

    def fail(self, job_id: str, code: str) -> None:
        error = JobError(code, "It cannot be done; do something else.", Phase.FETCHING)
        self.services.store.finish(job_id, 1, Status.FAILED, None, error)

    def _end(self, job_id: str, status: Status, report: dict[str, Any]) -> None:
        self.services.store.save_report(job_id, 1, report)
        self.services.store.finish(job_id, 1, status, summarize(open_report(report)).model_dump(mode="json"), None)


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """In-memory store and queue, folders for the rest, and one local model `acme/tiny`."""
    root = tmp_path / "service"
    write_model_files(root / "models/acme/tiny")
    return Services(
        store=MemoryJobStore(now),
        queue=MemoryQueue(),
        artifacts=DirectoryArtifacts(root / "artifacts"),
        keys=MemoryKeys(now),
        holds=MemoryHolds(now),
        audit=MemoryAudit(),
        corpora=DirectoryCorpora(root / "corpora", 1_000_000, now),
        models=LocalModels(root / "models"),
        clock=now,
        data_dir=root,
        max_body_bytes=100_000,
        max_corpus_bytes=1_000_000,
        uploads=CapacityLimiter(2),
        is_open=True,
    )


@pytest.fixture
def server(services: Services) -> Iterator[str]:
    """The URL of the API, served by uvicorn from a thread."""
    config = uvicorn.Config(create_app(services), port=0, log_config=None, ws="none", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.005)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join()


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server) as client:
        yield client


@pytest.fixture
def hand(services: Services) -> Hand:
    return Hand(services)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("Some words to read. " * 50)
    return path


@pytest.fixture
def soon() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Does things in another thread while the test waits; what goes wrong there fails the test."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def run(action: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                action()
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=guarded))
        threads[-1].start()

    yield run
    for thread in threads:
        thread.join()
    assert errors == []
