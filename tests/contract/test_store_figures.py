"""What every JobStore tells monitoring."""

from datetime import timedelta

from headroom.contract.answers.job import JobError, Phase, Status
from service.ports.jobs import EndedJob, JobStore
from tests.factories import StoppedClock, add_job, add_running_job


def test_an_empty_store_has_nothing_to_tell(store: JobStore, clock: StoppedClock) -> None:
    figures = store.figures(clock.now)
    assert (figures.jobs, figures.due, figures.oldest_due, figures.lost_attempts, figures.ended) == ({}, 0, None, 0, [])


def test_jobs_are_counted_by_kind_and_status(store: JobStore, clock: StoppedClock) -> None:
    add_job(store)
    add_job(store)
    add_running_job(store)
    assert store.figures(clock.now).jobs == {("compress", Status.QUEUED): 2, ("compress", Status.RUNNING): 1}


def test_the_queue_is_what_may_run_now_and_its_age_that_of_the_first(store: JobStore, clock: StoppedClock) -> None:
    first = add_job(store, created=clock.now - timedelta(seconds=90))
    add_job(store, created=clock.now - timedelta(seconds=30))
    resting = add_running_job(store)
    store.requeue(resting.id, 1, "worker_lost", clock.now + timedelta(seconds=60))

    figures = store.figures(clock.now)

    assert figures.due == 2
    assert figures.oldest_due == first.created


def test_lost_attempts_and_ended_jobs_are_those_of_lately(store: JobStore, clock: StoppedClock) -> None:
    lost, stopped, failed = add_running_job(store), add_running_job(store), add_running_job(store)
    store.requeue(lost.id, 1, "worker_lost", clock.now)
    store.requeue(stopped.id, 1, "worker_stopped", clock.now)
    store.report_progress(failed.id, 1, Phase.FETCHING, 0.5)
    clock.now += timedelta(seconds=7)
    store.report_progress(failed.id, 1, Phase.ENCODING, 0.5)
    store.finish(failed.id, 1, Status.FAILED, None, JobError("unsafe_model", "no", None))

    lately, now = store.figures(clock.now - timedelta(hours=1)), store.figures(clock.now + timedelta(seconds=1))

    assert lately.lost_attempts == 1
    assert lately.ended == [EndedJob("compress", Status.FAILED, {"fetching": 7.0, "encoding": 0.0})]
    assert (now.lost_attempts, now.ended) == (0, [])
