"""One attempt from claim to verdict, with real files and a engine that only pretends to compute."""

import errno
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headroom.contract.answers.job import Phase, Status
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.foundation.errors import (
    AttemptSuperseded,
    HubUnavailable,
    JobCanceled,
    ModelNotFound,
    StoredMismatch,
    StoreUnavailable,
    UnsupportedHead,
)
from service.jobs.execution import AttemptServices, execute
from service.jobs.retries import RetryPolicy
from service.ports.engine import EngineOutcome, EngineTask, Progress, Verdict
from service.ports.models import LocalModel
from service.records.job import Job
from tests.factories import CORPUS_ID, add_running_job, make_recipe
from tests.in_memory.job_store import MemoryJobStore
from tests.reports import compress_report, make_report

POINT = {"ratio": 0.5, "kept_columns": 8, "perplexity": 101.0, "perplexity_drift": 0.01, "passes": True}


@dataclass
class OneModel:
    """A ModelSource with one model, or one error."""

    path: Path
    error: Exception | None = None

    def local_ids(self) -> list[str]:
        return ["acme/tiny"]

    def exists(self, model_id: str, revision: str | None) -> None: ...

    def fetch(self, model_id: str, revision: str | None, progress: Callable[[float], None]) -> LocalModel:
        if self.error is not None:
            raise self.error
        progress(1.0)
        return LocalModel(model_id, "abc", self.path)


@dataclass
class PretendEngine:
    """Writes one file of weights and reports one point. `before` runs first, `error` is raised last."""

    passes: bool = True
    perplexity: float = 101.0
    before: Callable[[EngineTask], None] = lambda task: None
    error: Exception | None = None
    tasks: list[EngineTask] = field(default_factory=list)

    def __call__(self, task: EngineTask, progress: Progress) -> EngineOutcome:
        self.tasks.append(task)
        progress(Phase.ENCODING, 0.5)
        self.before(task)
        (task.staging / "model.safetensors").write_bytes(b"weights")
        progress(Phase.VALIDATING, 1.0)
        if self.error is not None:
            raise self.error
        selected = make_report({0.5: 0.01}, 0.5)["selected"] | {"passes": self.passes, "perplexity": self.perplexity}
        report = compress_report({0.5: 0.01}, 0.5, selected=selected)
        return EngineOutcome(Verdict.PUBLISH if self.passes else Verdict.REJECT, report)


@dataclass
class Bench:
    """A claimed job, and everything its attempt works with."""

    store: MemoryJobStore
    artifacts: DirectoryArtifacts
    services: AttemptServices
    job: Job
    root: Path

    def progress(self, phase: Phase, fraction: float) -> None:
        self.store.report_progress(self.job.id, self.job.attempt, phase, fraction)

    def run(self, engine: PretendEngine) -> Job:
        return execute(self.job, self.services, engine, self.progress)

    def read(self, path: str) -> bytes:
        with self.artifacts.open(self.job.id, path) as file:
            return file.read()

    def leftovers(self) -> list[Path]:
        return [path for path in (self.root / "artifacts" / "staging").rglob("*") if path.is_file()]

    def take_over(self) -> None:
        """Another attempt begins, as if this one had lost its lease."""
        self.store.requeue(self.job.id, self.job.attempt, "worker_lost", datetime.now(UTC))
        assert self.store.claim(self.job.id, "other", 30) is not None


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    def clock() -> datetime:
        return datetime.now(UTC)

    store, artifacts = MemoryJobStore(clock), DirectoryArtifacts(tmp_path / "artifacts")
    corpora = DirectoryCorpora(tmp_path / "corpora", 1000, clock)
    corpus = corpora.add(iter([b"some text"]), "text", None)
    claimed = add_running_job(store, recipe=make_recipe(corpus=corpus.id))
    services = AttemptServices(
        store=store,
        artifacts=artifacts,
        corpora=corpora,
        models=OneModel(tmp_path),
        cache_dir=tmp_path / "cache",
        device="cpu",
        retry=RetryPolicy(3, 0.0),
        clock=clock,
        patience_seconds=0.0,
        pause=lambda seconds: None,
    )
    return Bench(store, artifacts, services, claimed, tmp_path)


def test_an_accepted_job_is_published_whole_and_ends_succeeded(bench: Bench) -> None:
    ended = bench.run(PretendEngine())

    assert ended.status is Status.SUCCEEDED
    assert ended.result is not None
    assert (ended.result["ratio"], ended.result["largest_passing_ratio"]) == (0.5, 0.5)
    assert ended.result["perplexity_before"] == 200.0
    files = {file.path: file.sha256 for file in bench.artifacts.files(bench.job.id)}
    assert set(files) == {"README.md", "headroom.json", "model.safetensors", "report.html", "report.json"}
    manifest = json.loads(bench.read("headroom.json"))
    assert manifest["files"] == {path: digest for path, digest in files.items() if path != "headroom.json"}
    report = bench.read("report.json")
    assert manifest["report_sha256"] == hashlib.sha256(report).hexdigest()
    assert json.loads(report) == bench.store.report(bench.job.id)
    assert json.loads(report)["timing"].keys() == {"fetching", "total"}
    assert bench.leftovers() == []


def test_the_engine_is_given_the_model_the_corpus_and_its_own_staging(bench: Bench) -> None:
    engine = PretendEngine()
    bench.run(engine)

    task = engine.tasks[0]
    assert task.model.revision == "abc"
    assert task.corpus.path.read_bytes() == b"some text"
    assert task.cache_dir.is_dir()
    assert task.job_id == bench.job.id


def test_a_rejected_job_keeps_its_report_and_publishes_nothing(bench: Bench) -> None:
    ended = bench.run(PretendEngine(passes=False))

    assert ended.status is Status.REJECTED
    assert ended.result is not None
    assert ended.result["passes"] is False
    assert bench.store.report(bench.job.id)["selected"]["passes"] is False
    assert bench.artifacts.files(bench.job.id) == []
    assert bench.leftovers() == []


def test_a_perplexity_that_is_no_number_is_stored_as_null(bench: Bench) -> None:
    bench.run(PretendEngine(passes=False, perplexity=float("inf")))

    assert bench.store.report(bench.job.id)["selected"]["perplexity"] is None


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (UnsupportedHead("the logits differ by 3.2"), "unsupported_head"),
        (StoredMismatch("stored 101, measured 100"), "stored_mismatch"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (MemoryError(), "out_of_memory"),
        (ZeroDivisionError(), "internal_error"),
    ],
)
def test_a_failure_ends_the_job_with_its_code_and_phase_and_leaves_no_staging(
    bench: Bench, raised: Exception, code: str
) -> None:
    ended = bench.run(PretendEngine(error=raised))

    assert ended.status is Status.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.phase) == (code, Phase.VALIDATING)
    assert bench.leftovers() == []
    assert bench.artifacts.files(bench.job.id) == []


def test_a_defect_of_ours_leaves_a_traceback_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        bench.run(PretendEngine(error=ZeroDivisionError()))

    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text


def test_an_unknown_model_fails_the_job_in_fetching(bench: Bench) -> None:
    bench.services = replace(bench.services, models=OneModel(bench.root, ModelNotFound("no model acme/tiny")))

    ended = bench.run(PretendEngine())

    assert ended.error is not None
    assert (ended.error.code, ended.error.phase) == ("model_not_found", Phase.FETCHING)


def test_a_missing_corpus_fails_the_job_before_the_model_is_fetched(bench: Bench) -> None:
    bench.job = replace(bench.job, recipe=make_recipe(corpus=CORPUS_ID))
    bench.services = replace(bench.services, models=OneModel(bench.root, AssertionError("fetched")))

    ended = bench.run(PretendEngine())

    assert ended.error is not None
    assert ended.error.code == "corpus_not_found"


def test_a_hub_that_is_away_puts_the_job_back_until_its_attempts_are_used_up(bench: Bench) -> None:
    bench.services = replace(bench.services, models=OneModel(bench.root, HubUnavailable("the hub is away")))
    outcomes = []
    for _ in range(3):
        outcomes.append(bench.run(PretendEngine()).status)
        bench.job = bench.store.claim(bench.job.id, "w", 30) or bench.job

    ended = bench.store.get(bench.job.id)
    assert outcomes == [Status.QUEUED, Status.QUEUED, Status.FAILED]
    assert ended.error is not None
    assert (ended.error.code, ended.error.phase) == ("hub_unavailable", Phase.FETCHING)


def test_a_stopped_attempt_leaves_no_staging_and_writes_no_verdict(bench: Bench) -> None:
    with pytest.raises(JobCanceled):
        bench.run(PretendEngine(error=JobCanceled()))

    assert bench.store.get(bench.job.id).status is Status.RUNNING
    assert bench.leftovers() == []


def test_a_cancellation_while_publishing_leaves_nothing_published(bench: Bench) -> None:
    def publish_then_cancel(job_id: str, attempt: int, hashes: Any) -> Any:
        published = real_publish(job_id, attempt, hashes)
        bench.store.request_cancel(job_id)
        return published

    real_publish = bench.artifacts.publish
    bench.artifacts.publish = publish_then_cancel  # type: ignore[method-assign]

    assert bench.run(PretendEngine()).status is Status.CANCELED
    assert bench.artifacts.files(bench.job.id) == []


def test_an_attempt_that_lost_its_fence_publishes_nothing(bench: Bench) -> None:
    with pytest.raises(AttemptSuperseded):
        bench.run(PretendEngine(before=lambda task: bench.take_over()))

    assert bench.artifacts.files(bench.job.id) == []
    assert bench.leftovers() == []
    assert bench.store.get(bench.job.id).status is Status.RUNNING


def test_files_published_just_before_the_fence_fell_are_adopted_by_the_next_attempt(bench: Bench) -> None:
    def publish_then_lose(job_id: str, attempt: int, hashes: Any) -> Any:
        published = real_publish(job_id, attempt, hashes)
        bench.take_over()
        return published

    real_publish = bench.artifacts.publish
    bench.artifacts.publish = publish_then_lose  # type: ignore[method-assign]
    with pytest.raises(AttemptSuperseded):
        bench.run(PretendEngine(perplexity=101.0))
    bench.artifacts.publish = real_publish  # type: ignore[method-assign]

    bench.job = bench.store.get(bench.job.id)
    second = PretendEngine(perplexity=999.0)
    ended = bench.run(second)

    assert ended.status is Status.SUCCEEDED
    assert ended.result is not None
    assert ended.result["perplexity_after"] == 101.0
    assert second.tasks == [], "nothing is computed twice"
    report = json.loads(bench.read("report.json"))
    assert report == bench.store.report(bench.job.id)


def test_files_of_a_lost_attempt_go_if_the_job_ended_without_success_meanwhile(bench: Bench) -> None:
    def publish_then_end(job_id: str, attempt: int, hashes: Any) -> Any:
        published = real_publish(job_id, attempt, hashes)
        bench.store.request_cancel(job_id)
        bench.store.requeue(job_id, attempt, "worker_lost", datetime.now(UTC))
        return published

    real_publish = bench.artifacts.publish
    bench.artifacts.publish = publish_then_end  # type: ignore[method-assign]

    assert bench.run(PretendEngine()).status is Status.CANCELED
    assert bench.artifacts.files(bench.job.id) == []


def test_a_verdict_whose_answer_was_lost_is_not_taken_for_a_lost_fence(bench: Bench) -> None:
    def finish_then_fail(*arguments: Any) -> Job:
        bench.store.finish = real_finish  # type: ignore[method-assign]
        real_finish(*arguments)
        raise StoreUnavailable("the answer was lost")

    real_finish = bench.store.finish
    bench.store.finish = finish_then_fail  # type: ignore[method-assign]
    bench.services = replace(bench.services, patience_seconds=5.0)

    assert bench.run(PretendEngine()).status is Status.SUCCEEDED
    assert len(bench.artifacts.files(bench.job.id)) == 5


def test_a_short_outage_of_the_database_at_the_end_costs_nothing(bench: Bench) -> None:
    def come_back(seconds: float) -> None:
        bench.store.away = False

    def go_away(task: EngineTask) -> None:
        bench.store.away = True

    bench.services = replace(bench.services, patience_seconds=5.0, pause=come_back)
    ended = execute(bench.job, bench.services, PretendEngine(before=go_away), lambda phase, fraction: None)

    assert ended.status is Status.SUCCEEDED


def test_a_database_that_stays_away_leaves_the_job_to_its_lease(bench: Bench) -> None:
    def go_away(task: EngineTask) -> None:
        bench.store.away = True

    with pytest.raises(StoreUnavailable):
        execute(bench.job, bench.services, PretendEngine(before=go_away), lambda phase, fraction: None)

    bench.store.away = False
    assert bench.store.get(bench.job.id).status is Status.RUNNING
    assert bench.leftovers() == []


def test_a_job_whose_files_do_not_fit_its_owners_bytes_publishes_nothing_and_keeps_its_report(bench: Bench) -> None:
    bench.run(PretendEngine())
    size = bench.store.stored_bytes(bench.job.owner)
    assert size == sum(file.size for file in bench.artifacts.files(bench.job.id))

    for limit, status in ((2 * size - 100, Status.FAILED), (2 * size + 100, Status.SUCCEEDED)):
        job = add_running_job(bench.store, recipe=bench.job.recipe, byte_limit=limit)
        ended = Bench(bench.store, bench.artifacts, bench.services, job, bench.root).run(PretendEngine())
        assert ended.status is status
        assert bench.store.report(job.id)["kind"] == "compress"
        if ended.error is not None:
            assert (ended.error.code, ended.error.phase) == ("quota_exceeded", Phase.PUBLISHING)
            assert "delete jobs or corpora" in ended.error.message
            assert bench.artifacts.files(job.id) == []
            assert bench.store.stored_bytes(job.owner) == size
    assert bench.leftovers() == []
