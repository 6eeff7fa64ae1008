"""What every JobStore promises of a job's life: adding, finding, claiming, the fence, progress and the end."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from headroom.contract.answers.job import JobError, Phase, Status
from headroom.contract.job_recipe import ModelReference
from service.foundation.errors import AttemptSuperseded, InternalError, JobNotFound, ReportNotReady, RepositoryTaken
from service.ports.jobs import JobFilter, JobStore
from tests.factories import StoppedClock, add_job, add_running_job, claim_job, list_events, make_recipe, run_at_once

LEASE = 30.0
START = datetime(2100, 1, 1, tzinfo=UTC)  # where the clock stands
RESULT = {"ratio": 0.5, "largest_passing_ratio": None}


# Adding, finding, listing


def test_a_job_of_another_owner_is_told_like_one_that_is_not_there(store: JobStore) -> None:
    job, gone = add_job(store, owner="a"), "job_" + "0" * 32
    assert store.get(job.id, "a") == store.get(job.id) == job
    assert (store.get(job.id).owner, add_job(store).owner) == ("a", "local")

    def refusal(job_id: str) -> list[str]:
        told = []
        for look in (lambda: store.get(job_id, "b"), lambda: store.page(JobFilter(owner="b"), 10, job_id)):
            with pytest.raises(JobNotFound) as raised:
                look()
            told.append(raised.value.message.replace(job_id, "ID"))
        return told

    assert refusal(job.id) == refusal(gone)


def test_an_owner_publishes_under_no_name_of_another(store: JobStore) -> None:
    mine, theirs = (make_recipe(publish={"repo": name}) for name in ("acme/slim", "acme/other"))
    add_job(store, owner="a", recipe=mine)
    add_job(store, owner="a", recipe=mine)
    add_job(store, owner="b", recipe=theirs)

    with pytest.raises(RepositoryTaken):
        add_job(store, owner="b", recipe=mine)
    with pytest.raises(RepositoryTaken, match="acme/slim belongs to another owner"):
        store.check_repository("acme/slim", "b")
    store.check_repository("acme/slim", "a")
    assert [job.owner for job in store.page(JobFilter(repository="acme/slim"), 10, None).jobs] == ["a", "a"]


def test_a_name_is_free_again_when_nothing_will_be_published_under_it(store: JobStore) -> None:
    recipe = make_recipe(publish={"repo": "acme/slim"})
    store.request_cancel(add_job(store, owner="a", recipe=recipe).id)

    store.check_repository("acme/slim", "b")
    assert add_job(store, owner="b", recipe=recipe).owner == "b"


def test_of_many_who_ask_for_one_name_at_once_one_owner_gets_it(store: JobStore) -> None:
    recipe = make_recipe(publish={"repo": "acme/slim"})

    def ask(number: int) -> bool:
        try:
            add_job(store, owner=f"owner-{number}", recipe=recipe)
        except RepositoryTaken:
            return False
        return True

    assert run_at_once(8, ask).count(True) == 1


def test_a_job_comes_back_as_it_was_added(store: JobStore) -> None:
    recipe = make_recipe(
        model={"id": "acme/tiny", "revision": "v1"}, ratio="auto", ratios=[0.1], method="pca", labels={"team": "ö"}
    )
    job = add_job(store, recipe=recipe, created=START + timedelta(microseconds=1))

    assert store.get(job.id) == job
    assert list_events(store, job.id) == [("status", "queued")]


def test_a_job_id_cannot_be_used_twice(store: JobStore) -> None:
    job = add_job(store)

    with pytest.raises(InternalError):
        store.add(job)
    assert len(store.events(job.id, 0, 10)) == 1


@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "", "' OR 1=1 --", "a\0b", "\ud800"])
def test_an_unknown_job_is_not_found(store: JobStore, job_id: str) -> None:
    add_job(store)
    calls: list[Callable[[], object]] = [
        lambda: store.get(job_id),
        lambda: store.report(job_id),
        lambda: store.events(job_id, 0, 10),
        lambda: store.request_cancel(job_id),
        lambda: store.page(JobFilter(), 10, job_id),
    ]

    for call in calls:
        with pytest.raises(JobNotFound):
            call()


def test_an_unknown_job_cannot_be_claimed_and_marking_it_sent_is_ignored(store: JobStore) -> None:
    store.mark_sent("job_unknown")

    assert store.claim("job_unknown", "w1", LEASE) is None


def test_jobs_are_listed_newest_first_in_pages(store: JobStore) -> None:
    moments = [START + timedelta(seconds=seconds) for seconds in (0, 1, 1, 1, 2)]  # three share one moment
    ids = [add_job(store, created=moment).id for moment in moments]

    pages, after = [], None
    while True:
        page = store.page(JobFilter(), 2, after)
        pages.append([job.id for job in page.jobs])
        if not page.has_more:
            break
        after = pages[-1][-1]

    listed = [job_id for page in pages for job_id in page]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert (listed[0], listed[-1]) == (ids[4], ids[0])
    assert sorted(listed) == sorted(ids)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (JobFilter(), {"a", "b", "c"}),
        (JobFilter(status=Status.RUNNING), {"b"}),
        (JobFilter(kind="compress"), {"a", "b", "c"}),
        (JobFilter(kind="analyze"), set()),
        (JobFilter(model="acme/other"), {"c"}),
        (JobFilter(model="acme/%"), set()),
        (JobFilter(model="a\0b"), set()),
        (JobFilter(labels=(("team", "x"),)), {"a", "b"}),
        (JobFilter(labels=(("team", "x"), ("a.b-c", "1"))), {"b"}),
        (JobFilter(repository="acme/slim"), {"b"}),
        (JobFilter(status=Status.QUEUED, repository="acme/slim"), set()),
        (JobFilter(labels=(("a", "1"),)), set()),
        (JobFilter(owner="local"), {"a", "b", "c"}),
        (JobFilter(owner="x"), set()),
        (JobFilter(labels=(('"', "x"),)), set()),
        (JobFilter(status=Status.QUEUED, model="acme/tiny", labels=(("team", "x"),)), {"a"}),
    ],
)
def test_jobs_are_filtered(store: JobStore, where: JobFilter, expected: set[str]) -> None:
    ids = {
        "a": add_job(store, recipe=make_recipe(labels={"team": "x"})).id,
        "b": add_job(store, recipe=make_recipe(labels={"team": "x", "a.b-c": "1"}, publish={"repo": "acme/slim"})).id,
        "c": add_job(store, recipe=make_recipe().model_copy(update={"model": ModelReference(id="acme/other")})).id,
    }
    claim_job(store, ids["b"])

    assert {job.id for job in store.page(where, 10, None).jobs} == {ids[name] for name in expected}


def test_listed_jobs_carry_their_attempts(store: JobStore) -> None:
    first, second = add_running_job(store), add_running_job(store)
    store.requeue(second.id, 1, "worker_lost", START)
    claim_job(store, second.id)

    attempts = {job.id: len(job.attempts) for job in store.page(JobFilter(), 10, None).jobs}

    assert attempts == {first.id: 1, second.id: 2}


# Claiming


def test_a_claim_starts_the_next_attempt_under_a_lease(store: JobStore, clock: StoppedClock) -> None:
    job = add_job(store)
    now = clock.advance(5)

    claimed = claim_job(store, job.id, "host-1")

    assert (claimed.status, claimed.attempt, claimed.started) == (Status.RUNNING, 1, now)
    assert claimed.lease_until == now + timedelta(seconds=LEASE)
    assert [(record.worker, record.started, record.outcome) for record in claimed.attempts] == [("host-1", now, "")]
    assert store.get(job.id) == claimed


def test_a_redelivered_job_is_not_claimed_again(store: JobStore) -> None:
    job = add_running_job(store)

    assert store.claim(job.id, "w2", LEASE) is None
    store.finish(job.id, 1, Status.SUCCEEDED, RESULT, None)
    assert store.claim(job.id, "w2", LEASE) is None
    assert store.get(job.id).attempt == 1


def test_one_of_many_claims_at_once_wins(store: JobStore) -> None:
    for _ in range(5):
        job = add_job(store)

        claims = run_at_once(8, lambda number, job_id=job.id: store.claim(job_id, f"w{number}", LEASE))

        winners = [claimed for claimed in claims if claimed is not None]
        assert len(winners) == 1
        assert store.get(job.id) == winners[0]
        assert list_events(store, job.id) == [("status", "queued"), ("status", "running")]


def test_a_job_is_not_claimed_before_it_is_due(store: JobStore, clock: StoppedClock) -> None:
    job = add_running_job(store)
    store.requeue(job.id, 1, "worker_lost", clock.now + timedelta(seconds=4))

    assert store.claim(job.id, "w2", LEASE) is None
    clock.advance(4)
    assert claim_job(store, job.id).attempt == 2


# The fence


FENCED: dict[str, Callable[[JobStore, str, int], object]] = {
    "heartbeat": lambda store, job_id, attempt: store.heartbeat(job_id, attempt, LEASE),
    "progress": lambda store, job_id, attempt: store.report_progress(job_id, attempt, Phase.ENCODING, 0.5),
    "finish": lambda store, job_id, attempt: store.finish(job_id, attempt, Status.SUCCEEDED, RESULT, None),
    "requeue": lambda store, job_id, attempt: store.requeue(job_id, attempt, "worker_lost", START),
    "report": lambda store, job_id, attempt: store.save_report(job_id, attempt, {"seed": 0}),
}


@pytest.mark.parametrize("write", FENCED.values(), ids=FENCED)
def test_an_attempt_that_lost_the_job_can_write_nothing(
    store: JobStore, write: Callable[[JobStore, str, int], object]
) -> None:
    job = add_running_job(store)
    store.requeue(job.id, 1, "worker_lost", START)
    waiting = store.get(job.id)
    with pytest.raises(AttemptSuperseded):
        write(store, job.id, 1)
    assert store.get(job.id) == waiting

    second = claim_job(store, job.id)
    with pytest.raises(AttemptSuperseded):
        write(store, job.id, 1)
    assert store.get(job.id) == second

    ended = store.finish(job.id, 2, Status.FAILED, None, JobError("disk_full", "no space"))
    with pytest.raises(AttemptSuperseded):
        write(store, job.id, 2)
    assert store.get(job.id) == ended
    with pytest.raises(ReportNotReady):
        store.report(job.id)
    with pytest.raises(AttemptSuperseded):
        write(store, "job_unknown", 1)


def test_a_heartbeat_extends_the_lease_and_is_not_seen_from_outside(store: JobStore, clock: StoppedClock) -> None:
    job = add_running_job(store)
    now = clock.advance(10)

    beaten = store.heartbeat(job.id, 1, LEASE)

    assert beaten.lease_until == now + timedelta(seconds=LEASE)
    assert (beaten.version, beaten.status) == (job.version, Status.RUNNING)
    assert store.get(job.id) == beaten


# Progress


def test_only_a_new_phase_is_an_event(store: JobStore) -> None:
    job = add_running_job(store)
    for phase, progress in [(Phase.FETCHING, 0.0), (Phase.FETCHING, 0.04), (Phase.ENCODING, 0.05)]:
        store.report_progress(job.id, 1, phase, progress)

    assert list_events(store, job.id)[2:] == [("phase", "fetching"), ("phase", "encoding")]
    assert (store.get(job.id).phase, store.get(job.id).progress) == (Phase.ENCODING, 0.05)


def test_a_new_phase_closes_the_time_of_the_one_before(store: JobStore, clock: StoppedClock) -> None:
    job = add_running_job(store)
    for phase, seconds in [(Phase.FETCHING, 1.5), (Phase.ENCODING, 20.0), (Phase.SWEEPING, 3.25)]:
        store.report_progress(job.id, 1, phase, 0.1)
        clock.advance(seconds / 2)
        store.report_progress(job.id, 1, phase, 0.2)
        clock.advance(seconds / 2)

    assert store.get(job.id).phase_seconds == {"fetching": 1.5, "encoding": 20.0}
    ended = store.finish(job.id, 1, Status.REJECTED, RESULT, None)
    assert ended.phase_seconds == {"fetching": 1.5, "encoding": 20.0, "sweeping": 3.25}


def test_the_version_grows_with_every_change_that_can_be_seen_and_no_other(store: JobStore) -> None:
    job = add_running_job(store)
    versions = [store.get(job.id).version]
    for progress in (0.1, 0.1, 0.2):
        versions.append(store.report_progress(job.id, 1, Phase.ENCODING, progress).version)
    versions.append(store.request_cancel(job.id).version)
    versions.append(store.request_cancel(job.id).version)
    versions.append(store.finish(job.id, 1, Status.CANCELED, None, None).version)

    assert [later - earlier for earlier, later in itertools.pairwise(versions)] == [1, 0, 1, 1, 0, 1]


# Ends


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.REJECTED])
def test_a_finished_job_keeps_its_result(store: JobStore, clock: StoppedClock, status: Status) -> None:
    job = add_running_job(store)
    now = clock.advance(60)

    ended = store.finish(job.id, 1, status, RESULT, None)

    assert (ended.status, ended.progress, ended.result, ended.finished) == (status, 1.0, RESULT, now)
    assert (ended.lease_until, ended.error) == (None, None)
    assert (ended.attempts[0].finished, ended.attempts[0].outcome) == (now, status.value)
    assert list_events(store, job.id)[-2:] == [("attempt", status.value), ("status", status.value)]
    assert store.get(job.id) == ended


def test_a_failed_job_says_why_and_where(store: JobStore) -> None:
    job = add_running_job(store)
    store.report_progress(job.id, 1, Phase.SWEEPING, 0.6)
    error = JobError("out_of_memory", 'the device is full: "\ud800"', Phase.SWEEPING)

    ended = store.finish(job.id, 1, Status.FAILED, None, error)

    assert (ended.error, ended.progress, ended.phase) == (error, 0.6, Phase.SWEEPING)
    assert ended.attempts[0].outcome == "out_of_memory"
    assert store.get(job.id) == ended


def test_only_a_final_status_ends_a_job(store: JobStore) -> None:
    job = add_running_job(store)

    with pytest.raises(ValueError, match="not a final status"):
        store.finish(job.id, 1, Status.QUEUED, None, None)
    assert store.get(job.id) == job


def test_a_result_that_is_not_json_is_refused_and_changes_nothing(store: JobStore) -> None:
    job = add_running_job(store)

    with pytest.raises(Exception, match="not JSON compliant"):
        store.finish(job.id, 1, Status.SUCCEEDED, {"kl_mean": float("nan")}, None)
    assert store.get(job.id) == job
    assert len(store.events(job.id, 0, 10)) == 2
