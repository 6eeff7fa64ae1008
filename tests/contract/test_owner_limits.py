"""What every JobStore promises of quotas and of removing jobs."""

import pytest

from headroom.contract.answers.job import Status
from service.foundation.errors import AttemptSuperseded, JobNotFinished, JobNotFound, QuotaExceeded
from service.ports.access import CorpusHolds
from service.ports.jobs import JobFilter, JobStore
from service.records.quotas import NO_QUOTAS, Quotas
from tests.factories import (
    StoppedClock,
    add_job,
    add_running_job,
    claim_job,
    make_job,
    make_recipe,
    run_at_once,
)

TWO = Quotas(max_jobs=2)


def test_an_owner_has_so_many_unfinished_jobs_and_no_more(store: JobStore) -> None:
    first = add_running_job(store, owner="a")
    store.add(make_job(owner="a"), quotas=TWO)
    with pytest.raises(QuotaExceeded):
        store.add(make_job(owner="a"), quotas=TWO)
    store.add(make_job(owner="b"), quotas=TWO)
    store.request_cancel(first.id)
    with pytest.raises(QuotaExceeded):  # it still holds its worker
        store.add(make_job(owner="a"), quotas=TWO)

    store.finish(first.id, 1, Status.FAILED, None, None)
    store.add(make_job(owner="a"), quotas=TWO)
    assert len(store.page(JobFilter(owner="a"), 10, None).jobs) == 3


def test_jobs_posted_at_once_do_not_pass_the_quota_together(store: JobStore) -> None:
    def post(_: int) -> bool:
        try:
            store.add(make_job(owner="a"), quotas=TWO)
        except QuotaExceeded:
            return False
        return True

    assert sum(run_at_once(8, post)) == 2


def test_bytes_of_published_files_are_summed_by_owner(store: JobStore) -> None:
    for owner, size in (("a", 3_000_000_000), ("a", 5), ("b", 7)):
        job = add_running_job(store, owner=owner)
        assert store.finish(job.id, 1, Status.SUCCEEDED, {}, None, size).stored_bytes == size
    canceled = add_running_job(store, owner="a")
    store.request_cancel(canceled.id)
    assert store.finish(canceled.id, 1, Status.SUCCEEDED, {}, None, 9).stored_bytes == 0

    assert [store.stored_bytes(owner) for owner in ("a", "b", "c")] == [3_000_000_005, 7, 0]
    store.forget_bytes(job.id)
    store.forget_bytes("job_gone")
    assert (store.stored_bytes("b"), store.get(job.id).status) == (0, Status.SUCCEEDED)


def test_bytes_of_corpora_are_summed_by_owner(holds: CorpusHolds) -> None:
    holds.hold("a", "corpus_1", 3_000_000_000)
    holds.hold("a", "corpus_1", 3_000_000_000)
    holds.hold("a", "corpus_2", 5)
    holds.hold("b", "corpus_2", 5)
    assert [holds.bytes(owner) for owner in ("a", "b", "c")] == [3_000_000_005, 5, 0]
    holds.release("a", "corpus_2", lambda: None)
    assert (holds.bytes("a"), holds.bytes("b")) == (3_000_000_000, 5)


HUNDRED = Quotas(max_bytes=100)


def takes(store: JobStore, job_id: str, size: int, attempt: int = 1) -> bool:
    try:
        store.take_bytes(job_id, attempt, size)
    except QuotaExceeded:
        return False
    return True


def holds_it(holds: CorpusHolds, corpus_id: str, size: int, quotas: Quotas = HUNDRED) -> bool:
    try:
        holds.hold("a", corpus_id, size, quotas)
    except QuotaExceeded:
        return False
    return True


def test_files_and_corpora_share_the_bytes_of_their_owner(store: JobStore, holds: CorpusHolds) -> None:
    first, second = (add_running_job(store, owner="a", byte_limit=100) for _ in range(2))
    other, unlimited = add_running_job(store, owner="b", byte_limit=100), add_running_job(store, owner="a")
    assert holds_it(holds, "corpus_1", 40)
    assert takes(store, first.id, 61) is False
    assert takes(store, first.id, 60)
    assert takes(store, first.id, 60)  # once for each job, however often it is told
    assert [takes(store, job.id, 1) for job in (second, other, unlimited)] == [False, True, True]
    assert holds_it(holds, "corpus_2", 1) is False
    assert holds_it(holds, "corpus_1", 40)  # held already
    assert holds_it(holds, "corpus_2", 1, NO_QUOTAS)
    assert store.stored_bytes("a") + holds.bytes("a") == 102


def test_bytes_taken_come_back_unless_the_job_succeeds(store: JobStore, clock: StoppedClock) -> None:
    ways = (
        lambda job: store.finish(job.id, 1, Status.FAILED, None, None),
        lambda job: (store.request_cancel(job.id), store.requeue(job.id, 1, "worker_lost", clock())),
        lambda job: (store.requeue(job.id, 1, "worker_lost", clock()), store.request_cancel(job.id)),
    )
    for end in ways:
        job = add_running_job(store, owner="a", byte_limit=100)
        assert takes(store, job.id, 100)
        end(job)
        assert store.stored_bytes("a") == 0
    job = add_running_job(store, owner="a", byte_limit=100)
    assert takes(store, job.id, 100)
    store.requeue(job.id, 1, "worker_lost", clock())
    assert store.stored_bytes("a") == 100  # its files may be published already
    claim_job(store, job.id)
    with pytest.raises(AttemptSuperseded):
        store.take_bytes(job.id, 1, 5)
    assert takes(store, job.id, 70, attempt=2)
    assert store.stored_bytes("a") == 70


def test_however_many_ask_at_once_the_bytes_are_not_passed(store: JobStore, holds: CorpusHolds) -> None:
    jobs = [add_running_job(store, owner="a", byte_limit=100) for _ in range(4)]

    def take(number: int) -> bool:
        if number < 4:
            return takes(store, jobs[number].id, 40)
        return holds_it(holds, f"corpus_{number}", 40)

    assert sum(run_at_once(8, take)) == 2
    assert store.stored_bytes("a") + holds.bytes("a") == 80


def test_a_job_that_has_ended_can_be_removed_with_all_that_is_known_of_it(store: JobStore) -> None:
    recipe = make_recipe(publish={"repo": "acme/slim"})
    job = add_running_job(store, owner="a", recipe=recipe)
    store.save_report(job.id, 1, {"x": 1})
    with pytest.raises(JobNotFinished):
        store.remove(job.id)
    store.finish(job.id, 1, Status.SUCCEEDED, {}, None, 5)
    store.remove(job.id)

    for look in (store.get, store.report, store.remove, lambda job_id: store.events(job_id, 0, 10)):
        with pytest.raises(JobNotFound):
            look(job.id)  # type: ignore[operator]
    assert store.page(JobFilter(), 10, None).jobs == []
    assert store.stored_bytes("a") == 0
    assert add_job(store, owner="b", recipe=recipe).owner == "b"  # the name is free


def test_a_queued_job_cannot_be_removed(store: JobStore) -> None:
    job = add_job(store)
    with pytest.raises(JobNotFinished):
        store.remove(job.id)
    assert store.due_outbox(60, 10) == [job.id]
