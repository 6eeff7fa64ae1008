"""What goes after its time, and what stays although its time is over."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headroom.contract.answers.job import Status
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.foundation.errors import CorpusNotFound, ReportNotReady
from service.ports.files import ArtifactStore
from service.publishing.retention import Retention, Retirement
from service.records.audit import AuditEntry, AuditFilter
from service.records.job import Job
from tests.factories import StoppedClock, add_job, add_running_job, claim_job, make_recipe
from tests.in_memory.access import MemoryHolds
from tests.in_memory.audit import MemoryAudit
from tests.in_memory.job_store import MemoryJobStore

DAY = 86_400.0
FOR_EVER = Retention(0, 0, 0)
TEN_DAYS = Retention(10, 10, 10)


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(datetime.now(UTC))  # files carry the times of this machine


@pytest.fixture
def stores(tmp_path: Path, clock: StoppedClock) -> Retirement:
    return Retirement(
        MemoryJobStore(clock),
        MemoryHolds(clock),
        DirectoryArtifacts(tmp_path / "artifacts"),
        DirectoryCorpora(tmp_path / "corpora", 1000, clock),
        MemoryAudit(),
    )


def publish(stores: Retirement, status: Status = Status.SUCCEEDED) -> Job:
    job = add_running_job(stores.store)
    (stores.artifacts.staging(job.id, 1) / "weights").write_bytes(b"abc")
    stores.artifacts.publish(job.id, 1)
    stores.store.save_report(job.id, 1, {"seed": 0})
    return stores.store.finish(job.id, 1, status, {}, None) if status.is_final else job


def has_report(stores: Retirement, job: Job) -> bool:
    try:
        stores.store.report(job.id)
    except ReportNotReady:
        return False
    return True


def add_corpus(stores: Retirement, text: bytes, owner: str = "local") -> str:
    corpus = stores.corpora.add(iter([text]), "text", None)
    stores.holds.hold(owner, corpus.id, corpus.size)
    return corpus.id


def is_there(stores: Retirement, corpus_id: str) -> bool:
    try:
        return stores.corpora.path(corpus_id).is_file()
    except CorpusNotFound:
        return False


def test_everything_stays_unless_a_time_is_set(stores: Retirement, clock: StoppedClock) -> None:
    job, corpus = publish(stores), add_corpus(stores, b"text")

    stores.retire(FOR_EVER, clock.advance(10_000 * DAY))

    assert stores.artifacts.files(job.id)
    assert has_report(stores, job)
    assert is_there(stores, corpus)


def test_files_and_reports_go_when_their_time_is_over(stores: Retirement, clock: StoppedClock) -> None:
    job = publish(stores)

    stores.retire(TEN_DAYS, clock.advance(9 * DAY))
    assert stores.artifacts.files(job.id)
    assert has_report(stores, job)
    stores.retire(TEN_DAYS, clock.advance(2 * DAY))

    assert stores.artifacts.files(job.id) == []
    assert not has_report(stores, job)
    assert stores.store.get(job.id).status is Status.SUCCEEDED, "the job itself stays"


def test_a_download_that_runs_while_its_job_is_retired_finishes(stores: Retirement, clock: StoppedClock) -> None:
    job = publish(stores)

    with stores.artifacts.open(job.id, "weights") as file:
        assert file.read(1) == b"a"
        stores.retire(TEN_DAYS, clock.advance(11 * DAY))
        assert file.read() == b"bc"


def test_files_of_a_job_that_goes_on_stay_however_old(stores: Retirement, clock: StoppedClock) -> None:
    job = publish(stores, Status.RUNNING)

    stores.retire(TEN_DAYS, clock.advance(11 * DAY))

    assert stores.artifacts.files(job.id)


def test_files_that_no_job_knows_stay(stores: Retirement, clock: StoppedClock) -> None:
    job = publish(stores)
    other = Retirement(MemoryJobStore(clock), stores.holds, stores.artifacts, stores.corpora, stores.audit)

    other.retire(TEN_DAYS, clock.advance(11 * DAY))

    assert stores.artifacts.files(job.id)


def test_a_corpus_goes_when_nobody_used_it_for_long(stores: Retirement, clock: StoppedClock) -> None:
    unused, waiting, used_lately, held_lately = (add_corpus(stores, bytes([97 + number])) for number in range(4))
    add_job(stores.store, recipe=make_recipe(corpus=waiting))
    clock.advance(5 * DAY)
    job = claim_job(stores.store, add_job(stores.store, recipe=make_recipe(corpus=used_lately)).id)
    stores.store.finish(job.id, 1, Status.REJECTED, {}, None)
    stores.holds.hold("another", held_lately, 1)

    stores.retire(TEN_DAYS, clock.advance(6 * DAY))

    left = [is_there(stores, corpus) for corpus in (unused, waiting, used_lately, held_lately)]
    assert left == [False, True, True, True]
    assert stores.holds.last(unused) is None
    assert stores.holds.since("local", waiting) is not None, "who keeps it, keeps it"


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_stores_tell_which_publications_are_old(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    artifacts: ArtifactStore = DirectoryArtifacts(tmp_path)
    if kind == "s3":
        from service.adapters.files.bucket import Bucket
        from service.adapters.files.object_artifacts import ObjectArtifacts

        artifacts = ObjectArtifacts(Bucket(request.getfixturevalue("bucket_url")), tmp_path)
    (artifacts.staging("job_a", 1) / "weights").write_bytes(b"abc")
    assert artifacts.published_before(datetime.now(UTC) + timedelta(days=1)) == []
    artifacts.publish("job_a", 1)

    assert artifacts.published_before(datetime.now(UTC) + timedelta(days=1)) == ["job_a"]
    assert artifacts.published_before(datetime.now(UTC) - timedelta(days=1)) == []
    artifacts.withdraw("job_a")
    assert artifacts.published_before(datetime.now(UTC) + timedelta(days=1)) == []


def test_entries_of_the_audit_log_go_after_their_time_and_stay_where_none_is_set(
    stores: Retirement, clock: StoppedClock
) -> None:
    for action in ("job.post", "job.delete"):
        stores.audit.append(AuditEntry(clock(), action, "/v1/jobs", "ok"))
        clock.advance(6 * DAY)
    stores.retire(FOR_EVER, clock())
    stores.retire(replace(FOR_EVER, audit_days=10), clock())
    assert [entry.action for entry in stores.audit.page(AuditFilter(), 10, None).entries] == ["job.delete"]
    stores.audit.append(AuditEntry(clock(), "job.post", "/v1/jobs", "ok"))
    assert [entry.number for entry in stores.audit.page(AuditFilter(), 10, None).entries] == [3, 2]
