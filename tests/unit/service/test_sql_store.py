"""What only a database can do to a job store: be locked, be shared by processes, and be cut off in the middle."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from service.adapters import database
from service.adapters.database import Database
from service.adapters.migrate import upgrade
from service.adapters.sql_store import SqlJobStore
from service.errors import StoreUnavailable
from service.jobs import Phase, Status
from tests.factories import add_job, add_running_job, claim_job, list_events, make_job

# One process of several: claims every job it is told of, and moves each job it got through some phases.
PROCESS = """
import sys
from datetime import UTC, datetime
from service.adapters.sql_store import SqlJobStore
from service.jobs import Phase, Status

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
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/jobs.db"
    upgrade(url)
    return url


@pytest.fixture
def store(url: str) -> Iterator[SqlJobStore]:
    opened = SqlJobStore(url, utc_now)
    yield opened
    opened.close()


def test_a_database_that_stays_locked_is_unavailable_for_writing_only(
    url: str, store: SqlJobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = add_job(store)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    hasty = SqlJobStore(url, utc_now)
    blocker = Database(url)

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


def test_a_writer_waits_for_the_writer_before_it(url: str, store: SqlJobStore) -> None:
    blocker = Database(url)
    job = make_job()
    waiting = threading.Thread(target=store.add, args=(job,))

    with blocker.writing():
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join()

    assert store.get(job.id) == job
    blocker.close()


def test_the_database_keeps_what_it_was_told_through_a_power_cut(url: str) -> None:
    opened = Database(url)
    with opened.reading() as connection:
        pragmas = {name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")}
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
    opened.close()

    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


def test_a_write_that_fails_at_its_end_leaves_no_part_behind(url: str, store: SqlJobStore) -> None:
    job = add_running_job(store)
    other = Database(url)
    with other.writing() as connection:
        connection.execute(text("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(FAIL, 'full'); END"))

    with pytest.raises(Exception, match="full"):
        store.finish(job.id, 1, Status.SUCCEEDED, {}, None)
    with pytest.raises(Exception, match="full"):
        store.add(make_job())

    assert store.get(job.id) == job
    assert store.due_outbox(0, 10) == []
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
