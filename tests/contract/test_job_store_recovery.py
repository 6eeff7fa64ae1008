"""What every JobStore promises when things go less straight: canceling, lost leases, the outbox; reports and events."""

from datetime import UTC, datetime, timedelta

import pytest

from headroom.contract.answers.job import JobError, Phase, Status
from service.foundation.errors import AttemptSuperseded, JobFinished, ReportNotReady
from service.ports.jobs import JobStore
from service.records.job import Job
from tests.factories import (
    CORPUS_ID,
    StoppedClock,
    add_job,
    add_running_job,
    claim_job,
    list_events,
    make_recipe,
    run_at_once,
)

LEASE = 30.0
START = datetime(2100, 1, 1, tzinfo=UTC)  # where the clock stands
RESULT = {"ratio": 0.5, "largest_passing_ratio": None}


# Canceling


def test_a_queued_job_is_canceled_at_once(store: JobStore) -> None:
    job = add_job(store)

    canceled = store.request_cancel(job.id)

    assert (canceled.status, canceled.finished) == (Status.CANCELED, START)
    assert store.due_outbox(60, 10) == []
    assert store.claim(job.id, "w1", LEASE) is None
    assert list_events(store, job.id) == [("status", "queued"), ("status", "canceled")]


@pytest.mark.parametrize("asked", [Status.SUCCEEDED, Status.FAILED, Status.REJECTED, Status.CANCELED])
def test_a_canceling_job_ends_as_canceled_whatever_its_attempt_says(store: JobStore, asked: Status) -> None:
    job = add_running_job(store)
    assert store.request_cancel(job.id).status is Status.CANCELING
    assert store.heartbeat(job.id, 1, LEASE).status is Status.CANCELING
    assert store.report_progress(job.id, 1, Phase.ENCODING, 0.3).status is Status.CANCELING

    ended = store.finish(job.id, 1, asked, RESULT, JobError("internal_error", "x") if asked is Status.FAILED else None)

    assert (ended.status, ended.result, ended.error) == (Status.CANCELED, None, None)
    assert ended.attempts[0].outcome == "canceled"


def test_canceling_is_idempotent(store: JobStore) -> None:
    waiting, held = add_job(store), add_running_job(store)

    assert store.request_cancel(waiting.id) == store.request_cancel(waiting.id)
    assert store.request_cancel(held.id) == store.request_cancel(held.id)
    assert len(store.events(held.id, 0, 10)) == 3


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.REJECTED])
def test_a_job_that_has_ended_cannot_be_canceled(store: JobStore, status: Status) -> None:
    job = add_running_job(store)
    ended = store.finish(job.id, 1, status, None, None)

    with pytest.raises(JobFinished):
        store.request_cancel(job.id)
    assert store.get(job.id) == ended


def test_a_canceling_job_whose_worker_is_lost_is_canceled(store: JobStore, clock: StoppedClock) -> None:
    job = add_running_job(store)
    store.request_cancel(job.id)
    clock.advance(LEASE + 1)
    assert [lost.id for lost in store.lapsed()] == [job.id]

    ended = store.requeue(job.id, 1, "worker_lost", clock.now)

    assert (ended.status, ended.finished, ended.attempts[0].outcome) == (Status.CANCELED, clock.now, "worker_lost")
    assert store.due_outbox(0, 10) == store.lapsed() == []


def test_cancel_and_finish_at_once_leave_one_end(store: JobStore) -> None:
    for _ in range(5):
        job = add_running_job(store)

        def step(number: int, job_id: str = job.id) -> object:
            try:
                return store.request_cancel(job_id) if number else store.finish(job_id, 1, Status.SUCCEEDED, None, None)
            except JobFinished:
                return None

        run_at_once(2, step)

        ended = store.get(job.id)
        assert ended.status in (Status.SUCCEEDED, Status.CANCELED)
        statuses = [value for type_, value in list_events(store, job.id) if type_ == "status"]
        assert statuses[2:] in (["succeeded"], ["canceling", "canceled"])
        assert statuses[-1] == ended.status


# Leases and the outbox


def test_a_lease_lapses_only_when_it_is_over(store: JobStore, clock: StoppedClock) -> None:
    add_job(store)
    job = add_running_job(store)

    clock.advance(LEASE)
    assert store.lapsed() == []
    clock.advance(0.001)
    assert store.lapsed() == [store.get(job.id)]
    store.heartbeat(job.id, 1, LEASE)
    assert store.lapsed() == []


def test_a_lost_job_waits_in_the_queue_until_it_is_due(store: JobStore, clock: StoppedClock) -> None:
    job = add_running_job(store)
    store.report_progress(job.id, 1, Phase.ENCODING, 0.4)
    now = clock.advance(LEASE + 1)
    due = now + timedelta(seconds=2)

    waiting = store.requeue(job.id, 1, "worker_lost", due)

    assert (waiting.status, waiting.queued, waiting.not_before) == (Status.QUEUED, now, due)
    assert (waiting.phase, waiting.progress, waiting.lease_until) == (None, 0.0, None)
    assert (waiting.attempts[0].outcome, waiting.attempts[0].finished) == ("worker_lost", now)
    assert list_events(store, job.id)[-2:] == [("attempt", "worker_lost"), ("status", "queued")]
    assert store.get(job.id) == waiting
    assert store.due_outbox(60, 10) == []
    clock.advance(2)
    assert store.due_outbox(60, 10) == [job.id]
    again = claim_job(store, job.id)
    assert (again.not_before, again.phase_seconds, len(again.attempts)) == (None, {}, 2)


def test_one_of_two_sweepers_puts_a_lost_job_back(store: JobStore, clock: StoppedClock) -> None:
    job = add_running_job(store)
    clock.advance(LEASE + 1)

    def sweep(number: int) -> Job | None:
        try:
            return store.requeue(job.id, 1, "worker_lost", clock.now)
        except AttemptSuperseded:
            return None

    assert sum(swept is not None for swept in run_at_once(4, sweep)) == 1
    assert len(store.events(job.id, 0, 10)) == 4


def test_an_unsent_job_is_in_the_outbox_until_it_is_claimed(store: JobStore) -> None:
    job = add_job(store)

    assert store.due_outbox(60, 10) == [job.id]
    claim_job(store, job.id)
    assert store.due_outbox(0, 10) == []
    store.mark_sent(job.id)
    assert store.due_outbox(0, 10) == []


def test_a_sent_but_unclaimed_job_is_sent_again_after_a_while(store: JobStore, clock: StoppedClock) -> None:
    job = add_job(store)
    store.mark_sent(job.id)

    clock.advance(59)
    assert store.due_outbox(60, 10) == []
    clock.advance(1)
    assert store.due_outbox(60, 10) == [job.id]
    store.mark_sent(job.id)
    assert store.due_outbox(60, 10) == []


def test_a_job_that_was_put_back_is_sent_although_it_was_sent_before(store: JobStore) -> None:
    job = add_job(store)
    store.mark_sent(job.id)
    claim_job(store, job.id)
    store.requeue(job.id, 1, "worker_lost", START)

    assert store.due_outbox(60, 10) == [job.id]


def test_the_outbox_is_read_oldest_first_in_portions(store: JobStore) -> None:
    ids = [add_job(store, created=START - timedelta(seconds=seconds)).id for seconds in (3, 2, 1)]

    assert store.due_outbox(60, 2) == ids[:2]


# Reports, events, corpora


def test_a_report_is_kept_and_a_later_attempt_replaces_it(store: JobStore) -> None:
    job = add_running_job(store)
    with pytest.raises(ReportNotReady):
        store.report(job.id)
    store.save_report(job.id, 1, {"seed": 1, "curve": [{"ratio": 0.1}]})
    assert store.report(job.id) == {"seed": 1, "curve": [{"ratio": 0.1}]}
    store.requeue(job.id, 1, "worker_lost", START)
    claim_job(store, job.id)
    store.save_report(job.id, 2, {"seed": 2})

    store.finish(job.id, 2, Status.REJECTED, None, None)

    assert store.report(job.id) == {"seed": 2}


def test_events_can_be_read_in_portions(store: JobStore, clock: StoppedClock) -> None:
    job = add_running_job(store)
    now = clock.advance(1)
    store.finish(job.id, 1, Status.SUCCEEDED, None, None)

    assert [event.number for event in store.events(job.id, 0, 10)] == [1, 2, 3, 4]
    assert [event.number for event in store.events(job.id, 1, 2)] == [2, 3]
    assert store.events(job.id, 4, 10) == []
    last = store.events(job.id, 3, 10)[0]
    assert (last.job_id, last.time, last.type, last.data) == (job.id, now, "status", {"status": "succeeded"})


def test_event_numbers_have_no_gaps_when_many_write_at_once(store: JobStore) -> None:
    job = add_running_job(store)
    phases = [Phase.FETCHING, Phase.ENCODING]

    def write(number: int) -> None:
        for step in range(10):
            store.report_progress(job.id, 1, phases[(number + step) % 2], 0.1)

    run_at_once(4, write)

    numbers = [event.number for event in store.events(job.id, 0, 1000)]
    assert len(numbers) > 3
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_corpus_is_in_use_until_its_last_job_has_ended(store: JobStore) -> None:
    assert not store.corpus_in_use(CORPUS_ID)
    waiting, held = add_job(store), add_running_job(store)
    assert store.corpus_in_use(CORPUS_ID)
    store.request_cancel(waiting.id)
    store.request_cancel(held.id)
    assert store.corpus_in_use(CORPUS_ID)
    store.finish(held.id, 1, Status.CANCELED, None, None)
    assert not store.corpus_in_use(CORPUS_ID)


def test_a_corpus_that_is_only_evaluated_is_in_use_too(store: JobStore) -> None:
    other = "corpus_" + "1" * 32
    job = add_job(store, recipe=make_recipe(evaluation=[{"name": "prose", "corpus": other}]))
    assert store.corpus_in_use(other)
    assert not store.corpus_in_use("corpus_" + "2" * 32)
    store.request_cancel(job.id)
    assert not store.corpus_in_use(other)


def test_a_store_that_is_there_answers(store: JobStore) -> None:
    store.ping()


# Following many jobs


def test_new_events_of_several_jobs_are_told_each_from_its_own_number(store: JobStore) -> None:
    one, two, quiet = add_running_job(store), add_running_job(store), add_job(store)
    store.finish(two.id, 1, Status.SUCCEEDED, None, None)

    many = {f"job_{number}": 0 for number in range(1500)}  # more than one question holds
    found = store.new_events({one.id: 1, two.id: 0, quiet.id: 1} | many)

    numbers = {job.id: [event.number for event in found if event.job_id == job.id] for job in (one, two, quiet)}
    assert numbers == {one.id: [2], two.id: [1, 2, 3, 4], quiet.id: []}
    assert store.events(two.id, 0, 10) == [event for event in found if event.job_id == two.id]
    assert store.new_events({}) == []


def test_versions_are_of_jobs_that_changed_since_a_time(store: JobStore, clock: StoppedClock) -> None:
    old, changed = add_running_job(store), add_running_job(store)
    later = clock.advance(10)
    new = add_job(store)
    store.heartbeat(old.id, 1, 30)  # nothing that a user can see
    after = store.report_progress(changed.id, 1, Phase.FETCHING, 0.5)

    assert store.versions(later) == {changed.id: after.version, new.id: 0}
    clock.advance(1)
    store.report_progress(changed.id, 1, Phase.FETCHING, 0.5)  # the same again is no change
    assert store.versions(clock()) == {}


def test_versions_of_named_jobs_are_told_with_their_owners(store: JobStore) -> None:
    mine, theirs, _ = add_running_job(store, owner="a"), add_job(store, owner="b"), add_job(store)

    found = store.owned_versions([mine.id, theirs.id, "job_none", "job_\0", "job_\ud800"])

    assert found == {mine.id: ("a", store.get(mine.id).version), theirs.id: ("b", 0)}
    assert found[mine.id][1] > 0
    assert store.owned_versions([]) == {}


def test_several_jobs_are_read_at_once_and_missing_ones_passed_over(store: JobStore) -> None:
    jobs = [add_running_job(store) for _ in range(3)]

    found = store.several([jobs[0].id, jobs[2].id, "job_none"])

    assert sorted(found, key=lambda job: job.id) == sorted([jobs[0], jobs[2]], key=lambda job: job.id)
    assert store.several([]) == []


def test_a_corpus_was_in_use_lately_if_a_job_that_read_it_ended_since(store: JobStore, clock: StoppedClock) -> None:
    job = add_running_job(store)
    ended = clock.advance(10)
    store.finish(job.id, 1, Status.REJECTED, {}, None)

    assert not store.corpus_in_use(CORPUS_ID)
    assert store.corpus_in_use(CORPUS_ID, since=ended)
    assert not store.corpus_in_use(CORPUS_ID, since=ended + timedelta(seconds=1))
    assert not store.corpus_in_use("corpus_" + "1" * 32, since=START)


def test_reports_of_jobs_that_ended_long_ago_are_forgotten(store: JobStore, clock: StoppedClock) -> None:
    old, young, going_on = (add_running_job(store) for _ in range(3))
    for job in (old, young, going_on):
        store.save_report(job.id, 1, {"seed": 0})
    store.finish(old.id, 1, Status.SUCCEEDED, {}, None)
    moment = clock.advance(10)
    store.finish(young.id, 1, Status.SUCCEEDED, {}, None)

    assert store.forget_reports(moment) == 1
    assert store.forget_reports(moment) == 0

    with pytest.raises(ReportNotReady):
        store.report(old.id)
    assert store.report(young.id) == store.report(going_on.id) == {"seed": 0}
    assert store.get(old.id).status is Status.SUCCEEDED
