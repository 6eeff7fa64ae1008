from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from headroom.contract.answers.job import Status
from service.access.owned_corpora import OwnedCorpora
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.remote.local_models import LocalModels
from service.foundation.errors import (
    CorpusEmpty,
    CorpusInUse,
    CorpusNotFound,
    JobFinished,
    JobNotFound,
    ModelNotFound,
    QueueUnavailable,
    RatioTooSmall,
    StoreUnavailable,
    UnsafeModel,
    UnsupportedModel,
)
from service.jobs.submission import Submission
from service.ports.jobs import JobFilter
from service.records.callers import LOCAL_CALLER
from tests.factories import make_recipe, write_model_files
from tests.in_memory.access import MemoryHolds
from tests.in_memory.job_store import MemoryJobStore
from tests.in_memory.queue import MemoryQueue

TEXT = {"text": "some words"}


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
def store() -> MemoryJobStore:
    return MemoryJobStore(now)


@pytest.fixture
def submission(tmp_path: Path, store: MemoryJobStore, queue: MemoryQueue) -> Submission:
    write_model_files(tmp_path / "models/acme/tiny")
    corpora = OwnedCorpora(DirectoryCorpora(tmp_path / "corpora", 10_000, now), MemoryHolds(now), store)
    return Submission(store, queue, corpora, LocalModels(tmp_path / "models"), now)


def jobs_of(store: MemoryJobStore) -> int:
    return len(store.page(JobFilter(), 100, None).jobs)


def test_an_accepted_job_is_stored_sent_and_noted_as_sent(
    submission: Submission, store: MemoryJobStore, queue: MemoryQueue
) -> None:
    job = submission.accept(make_recipe(corpus=TEXT), LOCAL_CALLER)
    assert store.get(job.id) == job
    assert job.status is Status.QUEUED
    assert job.queued is not None
    assert queue.sent == [job.id]
    assert store.due_outbox(60, 10) == []


def test_the_job_is_stored_before_the_broker_hears_of_it(
    submission: Submission, store: MemoryJobStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "send", lambda job_id: store.get(job_id))
    submission.accept(make_recipe(corpus=TEXT), LOCAL_CALLER)


def test_with_the_broker_away_the_sweeper_finds_the_job(
    submission: Submission, store: MemoryJobStore, queue: MemoryQueue
) -> None:
    queue.away = True
    job = submission.accept(make_recipe(corpus=TEXT), LOCAL_CALLER)
    assert store.due_outbox(60, 10) == [job.id]


def test_a_database_that_goes_away_after_the_insert_loses_no_accepted_job(
    submission: Submission, store: MemoryJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(store, "mark_sent", away)
    assert store.get(submission.accept(make_recipe(corpus=TEXT), LOCAL_CALLER).id)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "acme/gone", "corpus": TEXT}, ModelNotFound),
        ({}, CorpusNotFound),
        ({"corpus": {"text": "  \n"}}, CorpusEmpty),
    ],
)
def test_what_is_refused_is_not_queued_and_not_stored(
    submission: Submission, store: MemoryJobStore, queue: MemoryQueue, fields: dict[str, object], error: type[Exception]
) -> None:
    for attempt in (submission.accept, submission.try_out):
        with pytest.raises(error):
            attempt(make_recipe(**fields), LOCAL_CALLER)
    assert jobs_of(store) == 0
    assert queue.sent == []
    assert submission.corpora.all(LOCAL_CALLER) == []


def test_a_local_model_that_is_unsafe_is_refused_at_once(
    submission: Submission, store: MemoryJobStore, tmp_path: Path
) -> None:
    write_model_files(tmp_path / "models/acme/evil", auto_map={"AutoModel": "x.Y"})
    with pytest.raises(UnsafeModel):
        submission.accept(make_recipe(model="acme/evil", corpus=TEXT), LOCAL_CALLER)
    assert jobs_of(store) == 0


def test_a_dry_run_finds_what_the_engine_would(submission: Submission, tmp_path: Path) -> None:
    with pytest.raises(RatioTooSmall, match=r"at least 0\.5"):
        submission.try_out(make_recipe(corpus=TEXT, ratio=0.1), LOCAL_CALLER)
    write_model_files(tmp_path / "models/acme/sorter", architectures=["BertForSequenceClassification"])
    with pytest.raises(UnsupportedModel, match="predicts no tokens"):
        submission.try_out(make_recipe(model="acme/sorter", corpus=TEXT), LOCAL_CALLER)


def test_a_dry_run_of_auto_leaves_open_what_only_measuring_tells(submission: Submission) -> None:
    estimate = submission.try_out(make_recipe(corpus=TEXT, ratio="auto"), LOCAL_CALLER).estimate
    assert (estimate.kept_columns, estimate.head_bytes_after) == (None, None)
    assert estimate.seconds > 0


def test_canceling_twice_is_told_apart(submission: Submission, queue: MemoryQueue) -> None:
    job = submission.accept(make_recipe(corpus=TEXT), LOCAL_CALLER)
    first, second = submission.cancel(job.id), submission.cancel(job.id)
    assert (first.was_asked_before, second.was_asked_before) == (False, True)
    assert first.job.status is Status.CANCELED
    assert queue.revoked == [job.id, job.id]


def test_a_cancellation_holds_without_the_broker(
    submission: Submission, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> None:
        raise QueueUnavailable("gone")

    job = submission.accept(make_recipe(corpus=TEXT), LOCAL_CALLER)
    monkeypatch.setattr(queue, "revoke", away)
    assert submission.cancel(job.id).job.status is Status.CANCELED


def test_a_job_that_ended_or_never_was_cannot_be_canceled(submission: Submission, store: MemoryJobStore) -> None:
    job = submission.accept(make_recipe(corpus=TEXT), LOCAL_CALLER)
    store.claim(job.id, "w", 60)
    store.finish(job.id, 1, Status.FAILED, None, None)
    with pytest.raises(JobFinished):
        submission.cancel(job.id)
    with pytest.raises(JobNotFound):
        submission.cancel("job_gone")


def test_a_corpus_stays_while_a_job_needs_it(submission: Submission) -> None:
    job = submission.accept(make_recipe(corpus=TEXT), LOCAL_CALLER)
    assert isinstance(job.recipe.corpus, str)
    with pytest.raises(CorpusInUse):
        submission.corpora.delete(LOCAL_CALLER, job.recipe.corpus)
    submission.cancel(job.id)
    submission.corpora.delete(LOCAL_CALLER, job.recipe.corpus)
    with pytest.raises(CorpusNotFound):
        submission.corpora.delete(LOCAL_CALLER, job.recipe.corpus)


def test_every_text_of_a_job_is_stored_and_kept_while_it_waits(submission: Submission) -> None:
    inline = [{"name": "first", "corpus": {"text": "one"}}, {"name": "second", "corpus": {"text": "two"}}]
    job = submission.accept(make_recipe(corpus=TEXT, evaluation=inline), LOCAL_CALLER)
    stored = [submission.corpora.corpora.path(str(corpus)).read_text() for corpus in job.recipe.corpora]
    assert stored == [TEXT["text"], "one", "two"]
    with pytest.raises(CorpusInUse):
        submission.corpora.delete(LOCAL_CALLER, str(job.recipe.corpora[2]))
    with pytest.raises(CorpusNotFound):
        submission.accept(
            make_recipe(corpus=TEXT, evaluation=[{"name": "gone", "corpus": "corpus_" + "f" * 32}]), LOCAL_CALLER
        )


@pytest.mark.parametrize("names", [("a", "a"), ("corpus",), ("",), ("a b",)])
def test_evaluation_corpora_need_names_of_their_own(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        make_recipe(evaluation=[{"name": name, "corpus": TEXT} for name in names])
