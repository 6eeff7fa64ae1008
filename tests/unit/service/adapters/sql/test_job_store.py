"""What only a database can do to a job store: be locked, be shared by processes, and be cut off in the middle."""

import itertools
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update

from headroom.contract.answers.job import Phase, Status
from service.adapters.migrate import upgrade
from service.adapters.sql import database
from service.adapters.sql.database import Database
from service.adapters.sql.job_store import SqlJobStore
from service.adapters.sql.tables import jobs
from service.foundation.errors import AttemptSuperseded, RecipeUnknown, StoreUnavailable
from service.ports.jobs import JobFilter
from tests.factories import add_job, add_running_job, claim_job, list_events, make_job, make_recipe, run_at_once

# One process of several: claims every job it is told of, and moves each job it got through some phases.
PROCESS = """
import sys
from datetime import UTC, datetime
from service.adapters.sql.job_store import SqlJobStore
from headroom.contract.answers.job import Phase, Status

url, worker, *job_ids = sys.argv[1:]
store = SqlJobStore(url, lambda: datetime.now(UTC))
store.ping()
print("ready", flush=True)
sys.stdin.readline()
for job_id in job_ids:
    job = store.claim(job_id, worker, 30.0)
    if job is None:
        continue
    for phase in Phase:
        store.report_progress(job_id, job.attempt, phase, 0.5)
        store.heartbeat(job_id, job.attempt, 30.0)
    store.finish(job_id, job.attempt, Status.SUCCEEDED, {"worker": worker}, None)
    print(job_id, flush=True)
store.close()
"""


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/jobs.db"
    upgrade(url)
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def store(url: str) -> Iterator[SqlJobStore]:
    opened = SqlJobStore(url, utc_now)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[SqlJobStore]:
    opened = SqlJobStore(sqlite_url, utc_now)
    yield opened
    opened.close()


def test_a_database_that_stays_locked_is_unavailable_for_writing_only(
    sqlite_url: str, sqlite_store: SqlJobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = add_job(sqlite_store)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    hasty = SqlJobStore(sqlite_url, utc_now)
    blocker = Database(sqlite_url)

    with blocker.writing():
        assert hasty.get(job.id) == job
        hasty.ping()
        with pytest.raises(StoreUnavailable):
            hasty.add(make_job())
        with pytest.raises(StoreUnavailable):
            hasty.claim(job.id, "w1", 30.0)
    assert "database is locked" in caplog.text
    assert hasty.claim(job.id, "w1", 30.0) is not None
    hasty.close()
    blocker.close()


def test_a_writer_waits_for_the_writer_before_it(sqlite_url: str, sqlite_store: SqlJobStore) -> None:
    blocker = Database(sqlite_url)
    job = make_job()
    waiting = threading.Thread(target=sqlite_store.add, args=(job,))

    with blocker.writing():
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join()

    assert sqlite_store.get(job.id) == job
    blocker.close()


def test_a_new_database_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    first = sqlite3.connect(tmp_path / "new.db", isolation_level=None, check_same_thread=False)
    first.execute("CREATE TABLE t (a)")
    first.execute("BEGIN IMMEDIATE")  # before it has a write-ahead log
    release = threading.Timer(0.5, first.commit)
    release.start()

    upgrade(f"sqlite:///{tmp_path}/new.db")

    release.join()
    first.close()


def test_the_database_keeps_what_it_was_told_through_a_power_cut(sqlite_url: str) -> None:
    opened = Database(sqlite_url)
    with opened.reading() as connection:
        pragmas = {name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")}
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
    opened.close()

    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


def test_a_write_that_fails_at_its_end_leaves_no_part_behind(sqlite_url: str, sqlite_store: SqlJobStore) -> None:
    job = add_running_job(sqlite_store)
    other = Database(sqlite_url)
    with other.writing() as connection:
        connection.execute(text("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(FAIL, 'full'); END"))

    with pytest.raises(Exception, match="full"):
        sqlite_store.finish(job.id, 1, Status.SUCCEEDED, {}, None)
    with pytest.raises(Exception, match="full"):
        sqlite_store.add(make_job())

    assert sqlite_store.get(job.id) == job
    assert sqlite_store.due_outbox(0, 10) == []
    other.close()


def test_a_deleted_job_takes_its_rows_with_it(url: str, store: SqlJobStore) -> None:
    job = add_running_job(store)
    store.save_report(job.id, 1, {"seed": 0})
    store.requeue(job.id, 1, "worker_lost", utc_now())
    other = Database(url)

    with other.writing() as connection:
        connection.execute(text("DELETE FROM jobs"))
        tables = ("attempts", "events", "outbox", "reports")
        left = [connection.scalar(text(f"SELECT count(*) FROM {table}")) for table in tables]
    other.close()

    assert left == [0, 0, 0, 0]


def test_times_come_back_in_utc_with_their_microseconds(store: SqlJobStore) -> None:
    moment = datetime.fromisoformat("2030-06-01T12:00:00.123456+02:00")
    job = add_job(store, created=moment)

    found = store.get(job.id).created

    assert found == moment
    assert found.utcoffset() == timedelta(0)


@pytest.mark.processes
def test_several_processes_share_one_database(url: str, store: SqlJobStore) -> None:
    job_ids = [add_job(store).id for _ in range(9)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, url, f"w{number}", *job_ids],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("go\n", timeout=120) for process in processes]

    assert [(process.returncode, error) for process, (_, error) in zip(processes, outputs, strict=True)] == [
        (0, "")
    ] * 3
    taken = [output.split() for output, _ in outputs]
    assert sorted(itertools.chain(*taken)) == sorted(job_ids)
    for number, ids in enumerate(taken):
        for job_id in ids:
            job = store.get(job_id)
            assert (job.status, job.attempt, job.result) == (Status.SUCCEEDED, 1, {"worker": f"w{number}"})
            phases = [value for type_, value in list_events(store, job_id) if type_ == "phase"]
            assert phases == [phase.value for phase in Phase]


@pytest.mark.processes
def test_a_process_that_is_killed_while_it_writes_locks_nobody_out(url: str, store: SqlJobStore) -> None:
    job_ids = [add_job(store).id for _ in range(40)]
    command = [sys.executable, "-c", PROCESS, url, "w0", *job_ids]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        while process.stdout.readline().strip() != job_ids[2]:
            pass
        process.kill()

    jobs = [store.get(job_id) for job_id in job_ids]
    held = [job for job in jobs if job.status is Status.RUNNING]
    assert len(held) <= 1
    for job in jobs:
        assert [event.number for event in store.events(job.id, 0, 100)][-1] == len(store.events(job.id, 0, 100))
    for job in held:
        store.requeue(job.id, 1, "worker_lost", utc_now())
        assert claim_job(store, job.id).attempt == 2


# Many connections at once: each thread has its own, as each process would.


def test_a_queue_of_jobs_is_shared_out_and_each_is_claimed_once(store: SqlJobStore) -> None:
    job_ids = [add_job(store).id for _ in range(20)]

    def claim_all(number: int) -> list[str]:
        return [job_id for job_id in job_ids if store.claim(job_id, f"w{number}", 30.0) is not None]

    claimed = run_at_once(8, claim_all)

    assert sorted(itertools.chain(*claimed)) == sorted(job_ids)
    for number, ids in enumerate(claimed):
        assert {store.get(job_id).attempts[0].worker for job_id in ids} <= {f"w{number}"}
    assert store.due_outbox(0.0, 100) == []


def test_heartbeats_beside_reports_lose_neither(store: SqlJobStore) -> None:
    job = add_running_job(store)

    def beat_or_report(number: int) -> None:
        for step in range(10):
            if number % 2:
                store.heartbeat(job.id, 1, 1000.0)
            else:
                store.report_progress(job.id, 1, Phase.ENCODING, step / 10)

    run_at_once(6, beat_or_report)

    now = store.get(job.id)
    assert (now.status, now.phase) == (Status.RUNNING, Phase.ENCODING)
    assert now.lease_until is not None
    assert now.lease_until > utc_now() + timedelta(seconds=900)
    assert [type_ for type_, _ in list_events(store, job.id)].count("phase") == 1


def test_a_lost_job_is_taken_back_once_and_its_late_attempt_writes_nothing(store: SqlJobStore) -> None:
    job = claim_job(store, add_job(store).id, lease_seconds=-1.0)

    def sweep_or_write(number: int) -> str:
        try:
            if number % 2:
                store.requeue(job.id, 1, "worker_lost", utc_now())
                return "requeued"
            store.finish(job.id, 1, Status.SUCCEEDED, {}, None)
            return "finished"
        except AttemptSuperseded:
            return "superseded"

    outcomes = run_at_once(8, sweep_or_write)

    assert outcomes.count("superseded") == 7
    ended = store.get(job.id).status
    assert ended is (Status.QUEUED if "requeued" in outcomes else Status.SUCCEEDED)
    assert store.due_outbox(0.0, 10) == ([job.id] if ended is Status.QUEUED else [])


def test_the_outbox_can_be_read_while_jobs_come_and_go(store: SqlJobStore) -> None:
    added: list[str] = []

    def add_or_send(number: int) -> None:
        for _ in range(8):
            if number % 2:
                added.append(add_job(store).id)
            else:
                for job_id in store.due_outbox(1000.0, 100):
                    store.mark_sent(job_id)

    run_at_once(6, add_or_send)
    for job_id in store.due_outbox(1000.0, 100):
        store.mark_sent(job_id)

    assert store.due_outbox(1000.0, 100) == []
    assert sorted(store.due_outbox(-1.0, 100)) == sorted(added)


def add_of_a_newer_release(store: SqlJobStore, url: str) -> str:
    """A running job whose recipe has a field that no release knows yet."""
    job = add_running_job(store)
    set_columns(url, job.id, recipe=job.recipe.model_dump(mode="json") | {"moonlight": 1})
    return job.id


def set_columns(url: str, job_id: str, **columns: object) -> None:
    opened = Database(url)
    with opened.writing() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(columns))
    opened.close()


def test_a_job_of_a_newer_release_is_refused_by_its_id_and_left_out_of_lists(url: str, store: SqlJobStore) -> None:
    older = add_job(store)
    hidden = [add_of_a_newer_release(store, url) for _ in range(3)]
    newer = add_job(store)
    asked = (store.get, store.report, store.request_cancel, lambda job_id: store.events(job_id, 0, 10))
    for ask in asked:
        with pytest.raises(RecipeUnknown, match=f"{hidden[0]} was accepted by a newer release .*moonlight.*upgrade"):
            ask(hidden[0])
    assert [job.id for job in store.page(JobFilter(), 10, None).jobs] == [newer.id, older.id]
    first = store.page(JobFilter(), 1, None)
    assert ([job.id for job in first.jobs], first.has_more) == ([newer.id], True)
    second = store.page(JobFilter(), 1, newer.id)  # three that are left out lie between
    assert ([job.id for job in second.jobs], second.has_more) == ([older.id], False)
    assert [job.id for job in store.several([older.id, *hidden])] == [older.id]
    assert store.unfinished().keys() == {older.id, newer.id, *hidden}
    assert store.unfinished()[hidden[0]] == (Status.RUNNING, 1)


def test_a_queued_job_of_a_newer_release_waits_for_a_worker_that_knows_it(url: str, store: SqlJobStore) -> None:
    job_id = add_of_a_newer_release(store, url)
    set_columns(url, job_id, status=Status.QUEUED.value)
    assert store.claim(job_id, "w1", 30.0) is None
    set_columns(url, job_id, recipe=make_recipe().model_dump(mode="json"))
    assert claim_job(store, job_id).attempt == 2


def test_lapsed_jobs_are_taken_back_although_one_of_a_newer_release_lapsed_too(url: str, store: SqlJobStore) -> None:
    newer, job = add_of_a_newer_release(store, url), add_running_job(store)
    for job_id in (newer, job.id):
        set_columns(url, job_id, lease_until=utc_now() - timedelta(seconds=1))
    assert [found.id for found in store.lapsed()] == [job.id]
