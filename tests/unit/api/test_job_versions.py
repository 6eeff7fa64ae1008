"""Many conditional requests at once: one look at the store for all that wait, and none is told what is old."""

import asyncio
import threading
from collections.abc import Collection
from datetime import UTC, datetime

from api.job_versions import JobVersions
from service.adapters.memory_store import MemoryJobStore
from service.errors import StoreUnavailable
from service.jobs import Phase
from tests.factories import add_job, add_running_job


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
        versions = JobVersions(store)
        first = asyncio.create_task(versions.find(job.id, "a"))
        await until_looks(store, 1)
        after = store.report_progress(job.id, 1, Phase.ENCODING, 0.5)
        asked = [(job.id, "a"), (job.id, None), (job.id, "b"), (other.id, "b"), ("job_none", None)]
        others = [asyncio.create_task(versions.find(*question)) for question in asked]
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
        versions = JobVersions(store)
        gone, stays = (asyncio.create_task(versions.find(job.id, "a")) for _ in range(2))
        await until_looks(store, 1)
        gone.cancel()
        store.may_go_on.release()
        assert await stays == 0

    asyncio.run(ask())


def test_a_store_that_is_away_is_told_to_all_who_wait_and_to_nobody_after() -> None:
    store = MemoryJobStore(lambda: datetime.now(UTC))
    job = add_job(store, owner="a")

    async def ask() -> None:
        versions = JobVersions(store)
        store.away = True
        told = await asyncio.gather(*(versions.find(job.id, "a") for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in told] == [StoreUnavailable] * 3
        store.away = False
        assert await versions.find(job.id, "a") == 0

    asyncio.run(ask())
