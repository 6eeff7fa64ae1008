"""Many conditional requests at once: one look at the store for all that wait, and none is told what is old."""

import asyncio
import json
import threading
from collections.abc import Collection
from datetime import UTC, datetime

import pytest

from api.answers import job_answers
from api.answers.job_answers import JobAnswers
from headroom.contract.answers.job import Phase
from service.foundation.errors import StoreUnavailable
from tests.factories import add_job, add_running_job
from tests.in_memory.job_store import MemoryJobStore


class SlowStore(MemoryJobStore):
    """Each look waits until it is let go; a look sees what is there then."""

    def __init__(self) -> None:
        super().__init__(lambda: datetime.now(UTC))
        self.looks: list[set[str]] = []
        self.may_go_on = threading.Semaphore(0)

    def owned_versions(self, job_ids: Collection[str]) -> dict[str, tuple[str, int]]:
        self.looks.append(set(job_ids))
        found = super().owned_versions(job_ids)
        assert self.may_go_on.acquire(timeout=10)
        return found


async def until_looks(store: SlowStore, count: int) -> None:
    async with asyncio.timeout(10):
        while len(store.looks) < count:
            await asyncio.sleep(0.001)


def test_what_is_asked_during_a_look_is_answered_by_the_next_one_together() -> None:
    store = SlowStore()
    job, other = add_running_job(store, owner="a"), add_job(store, owner="b")

    async def ask() -> None:
        answers = JobAnswers(store)
        first = asyncio.create_task(answers.version(job.id, "a"))
        await until_looks(store, 1)
        after = store.report_progress(job.id, 1, Phase.ENCODING, 0.5)
        asked = [(job.id, "a"), (job.id, None), (job.id, "b"), (other.id, "b"), ("job_none", None)]
        others = [asyncio.create_task(answers.version(*question)) for question in asked]
        await asyncio.sleep(0)
        store.may_go_on.release(2)
        assert await first == after.version - 1
        assert await asyncio.gather(*others) == [after.version, after.version, None, 0, None]

    asyncio.run(ask())
    assert store.looks == [{job.id}, {job.id, other.id, "job_none"}]


def test_a_client_that_goes_away_takes_no_answer_from_the_others() -> None:
    store = SlowStore()
    job = add_job(store, owner="a")

    async def ask() -> None:
        answers = JobAnswers(store)
        gone, stays = (asyncio.create_task(answers.version(job.id, "a")) for _ in range(2))
        await until_looks(store, 1)
        gone.cancel()
        store.may_go_on.release()
        assert await stays == 0

    asyncio.run(ask())


def test_a_store_that_is_away_is_told_to_all_who_wait_and_to_nobody_after() -> None:
    store = MemoryJobStore(lambda: datetime.now(UTC))
    job = add_job(store, owner="a")

    async def ask() -> None:
        answers = JobAnswers(store)
        store.away = True
        told = await asyncio.gather(*(answers.version(job.id, "a") for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in told] == [StoreUnavailable] * 3
        store.away = False
        assert await answers.version(job.id, "a") == 0

    asyncio.run(ask())


def test_the_json_of_a_version_is_written_once_and_never_told_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryJobStore(lambda: datetime.now(UTC))
    job = add_running_job(store, owner="a")
    looks: list[set[str]] = []
    several = store.several
    monkeypatch.setattr(store, "several", lambda ids: looks.append(set(ids)) or several(ids))
    monkeypatch.setattr(store, "owned_versions", lambda ids: {one.id: (one.owner, one.version) for one in several(ids)})

    async def ask() -> None:
        answers = JobAnswers(store)
        for step in (1, 1, 2):
            after = store.report_progress(job.id, 1, Phase.ENCODING, step / 10)
            version = await answers.version(job.id, "a")
            assert version == after.version
            found = await answers.body(job.id, version)
            assert found is not None
            assert (found[0], json.loads(found[1])["progress"]) == (after.version, step / 10)
        # One that has learnt of a version is told a newer one, if there is one by then.
        assert await answers.body(job.id, version - 1) == found
        assert await answers.body("job_none", 0) is None

    asyncio.run(ask())
    assert looks == [{job.id}, {job.id}, {"job_none"}]


def test_only_so_many_bodies_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_answers, "BODIES", 2)
    store = MemoryJobStore(lambda: datetime.now(UTC))
    jobs = [add_job(store, owner="a") for _ in range(4)]

    async def ask() -> None:
        answers = JobAnswers(store)
        for job in [*jobs, *jobs]:
            found = await answers.body(job.id, 0)
            assert found is not None
            assert json.loads(found[1])["id"] == job.id
            assert len(answers._bodies) <= 2

    asyncio.run(ask())
