"""What every ShardStore promises: shards taken by one, kept by a lease, done once, and gone with their job."""

import json
from datetime import timedelta

import pytest

from headroom.contract.answers.job import Status
from headroom.contract.webhook import WebhookEvent
from service.foundation.errors import AttemptSuperseded, OutOfMemory
from service.ports.jobs import JobStore, ShardStore
from service.records.job import Job
from service.records.shards import (
    NOT_HEARD_OF,
    EncodeQuestion,
    GivenBack,
    Question,
    Shard,
    ShardState,
    StatesQuestion,
    SweepQuestion,
    ValidateQuestion,
    operation_of,
    parent_holder,
    question_told,
    read_question,
    step_of,
)
from tests.factories import StoppedClock, add_job, add_running_job, claim_job, make_recipe, run_at_once

ENCODE = EncodeQuestion(windows="w", shards=3, model="m", revision=None)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VALIDATE = ValidateQuestion(**vars(ENCODE), stored="s")
STATES = StatesQuestion(**vars(ENCODE), part="evaluation", numbers=(0, 2))
SWEEP = SweepQuestion(**vars(ENCODE), head="h", sizes=(8, 16), top=5)


@pytest.fixture
def shards(store: JobStore) -> ShardStore:
    return store.shards


@pytest.fixture
def job(store: JobStore) -> Job:
    return add_running_job(store)


def ask(shards: ShardStore, job: Job, question: Question = ENCODE, count: int = 3) -> list[Shard]:
    shards.ask(job.id, job.attempt, question, count)
    return [shard for shard in shards.of(job.id) if shard.step == step_of(question)]


def take(shards: ShardStore, shard: Shard, holder: str = "a") -> Shard:
    taken = shards.claim(shard, holder, 30.0)
    assert taken is not None
    return taken


def only(shards: ShardStore, job: Job, number: int = 0) -> Shard:
    (found,) = [shard for shard in shards.of(job.id) if shard.number == number]
    return found


def test_a_question_makes_waiting_shards_once(shards: ShardStore, job: Job, clock: StoppedClock) -> None:
    made = ask(shards, job)
    assert [(one.number, one.state, one.attempt, one.question) for one in made] == [
        (number, ShardState.WAITING, 0, ENCODE) for number in range(3)
    ]
    assert {one.created for one in made} == {clock()}
    taken = take(shards, made[1])
    assert ask(shards, job)[1] == taken


def test_another_question_removes_what_is_not_done_of_those_before(shards: ShardStore, job: Job) -> None:
    made = ask(shards, job)
    shards.finish(take(shards, made[0]))
    take(shards, made[1])
    ask(shards, job, SWEEP)
    kept = [(one.step, one.number) for one in shards.of(job.id)]
    assert sorted(kept) == sorted([(step_of(ENCODE), 0), *((step_of(SWEEP), number) for number in range(3))])


def test_only_the_attempt_that_owns_the_job_asks(store: JobStore, shards: ShardStore, job: Job) -> None:
    with pytest.raises(AttemptSuperseded):
        shards.ask(job.id, job.attempt + 1, ENCODE, 3)
    waiting = add_job(store)
    with pytest.raises(AttemptSuperseded):
        shards.ask(waiting.id, 0, ENCODE, 3)
    assert shards.of(job.id) == shards.of(waiting.id) == shards.of("job_none") == []


def test_of_many_that_claim_at_once_one_gets_the_shard(shards: ShardStore, job: Job) -> None:
    shard = ask(shards, job)[0]
    taken = [one for one in run_at_once(8, lambda number: shards.claim(shard, str(number), 30.0)) if one]
    assert len(taken) == 1
    assert only(shards, job) == taken[0]
    assert (taken[0].state, taken[0].attempt, taken[0].losses) == (ShardState.RUNNING, 1, 0)


def test_a_claimed_shard_is_not_to_be_had_until_its_lease_lapses(
    shards: ShardStore, job: Job, clock: StoppedClock
) -> None:
    first = take(shards, ask(shards, job)[0])
    assert shards.claim(only(shards, job), "b", 30.0) is None
    clock.advance(31)
    second = take(shards, only(shards, job), "b")
    assert (second.holder, second.attempt, second.losses) == ("b", 2, 1)
    for write in (shards.finish, lambda shard: shards.heartbeat(shard, 30.0, 0.5)):
        with pytest.raises(AttemptSuperseded):
            write(first)
    shards.give_back(first, GivenBack.FAILED)
    assert only(shards, job) == second


def test_a_heartbeat_extends_the_lease_also_of_one_that_was_seen_to_lapse(
    shards: ShardStore, job: Job, clock: StoppedClock
) -> None:
    taken = take(shards, ask(shards, job)[0])
    clock.advance(31)
    seen = only(shards, job)
    shards.heartbeat(taken, 30.0, 0.25)
    assert shards.claim(seen, "b", 30.0) is None
    assert only(shards, job).progress == 0.25
    clock.advance(29)
    shards.finish(taken)
    done = only(shards, job)
    assert (done.state, done.progress, done.lease_until) == (ShardState.DONE, 1.0, None)
    assert shards.claim(done, "b", 30.0) is None


@pytest.mark.parametrize(
    ("why", "losses", "only_parent"),
    [(GivenBack.STOPPED, 0, False), (GivenBack.LOST, 1, False), (GivenBack.FAILED, 0, True)],
)
def test_a_shard_that_is_given_back_waits_again(
    shards: ShardStore, job: Job, why: GivenBack, losses: int, only_parent: bool
) -> None:
    shards.give_back(take(shards, ask(shards, job)[0]), why)
    again = only(shards, job)
    assert (again.state, again.losses, again.only_parent) == (ShardState.WAITING, losses, only_parent)
    assert take(shards, again, "b").attempt == 2


def test_a_holder_that_died_gives_back_what_it_held_and_no_more(shards: ShardStore, job: Job) -> None:
    made = ask(shards, job)
    shards.finish(take(shards, made[0]))
    take(shards, made[1])
    other = take(shards, made[2], "b")
    assert shards.release(job.id, "a", "it died") == 1
    assert shards.release(job.id, "a", "it died") == 0
    assert [one.state for one in shards.of(job.id)] == [ShardState.DONE, ShardState.WAITING, ShardState.RUNNING]
    assert only(shards, job, 1).losses == 1
    assert only(shards, job, 2) == other


def losses(store: JobStore, job: Job) -> list[dict[str, object]]:
    return [event.data for event in store.events(job.id, 0, 100) if event.type == "shard"]


def test_the_history_tells_which_shard_was_lost_with_which_worker_and_why(
    store: JobStore, shards: ShardStore, job: Job, clock: StoppedClock
) -> None:
    made, before = ask(shards, job), store.get(job.id)
    take(shards, made[0], "host:1")
    shards.release(job.id, "host:1", "its process was killed by SIGKILL")
    lapsing = take(shards, made[1], "host:2")
    clock.advance(31)
    take(shards, only(shards, job, 1), "host:3")
    shards.give_back(take(shards, made[2], "host:4"), GivenBack.FAILED, OutOfMemory("too little"))

    told = {"operation": "encode", "shards": 3}
    assert losses(store, job) == [
        told
        | {"shard": 1, "worker": "host:1", "why": "lost", "code": None, "message": "its process was killed by SIGKILL"},
        told | {"shard": 2, "worker": lapsing.holder, "why": "lost", "code": None, "message": NOT_HEARD_OF},
        told | {"shard": 3, "worker": "host:4", "why": "failed", "code": "out_of_memory", "message": "too little"},
    ]
    numbers = [event.number for event in store.events(job.id, 0, 100)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert store.get(job.id).version == before.version + 3  # streams see by it that there is something to tell
    assert store.versions(clock() - timedelta(seconds=1))[job.id] == before.version + 3


def test_the_history_does_not_tell_of_shards_that_went_on_or_were_stopped_on_purpose(
    store: JobStore, shards: ShardStore, job: Job, clock: StoppedClock
) -> None:
    made = ask(shards, job)
    shards.give_back(take(shards, made[0]), GivenBack.STOPPED)
    late = take(shards, made[1], "late")
    take(shards, made[2], parent_holder(1))
    clock.advance(31)
    seen = only(shards, job, 1)
    shards.heartbeat(late, 30.0, 0.5)
    assert shards.claim(seen, "b", 30.0) is None
    store.requeue(job.id, 1, "worker_lost", clock())
    shards.release(job.id, "nobody", "it died")
    shards.give_back(made[0], GivenBack.FAILED)
    assert losses(store, job) == []


def test_a_shard_that_the_jobs_own_attempt_lost_is_told_with_the_name_of_its_worker(
    store: JobStore, shards: ShardStore, job: Job
) -> None:
    shards.give_back(take(shards, ask(shards, job)[0], parent_holder(job.attempt)), GivenBack.LOST)
    assert [loss["worker"] for loss in losses(store, job)] == [job.attempts[-1].worker]


def test_a_lost_shard_is_told_to_no_webhook(store: JobStore) -> None:
    job = add_running_job(
        store,
        recipe=make_recipe(webhook={"url": "https://ci.example.org/", "secret": SECRET, "events": list(WebhookEvent)}),
    )
    before = store.webhooks.deliveries(job.id)
    store.shards.give_back(take(store.shards, ask(store.shards, job)[0]), GivenBack.LOST)
    assert len(losses(store, job)) == 1
    assert store.webhooks.deliveries(job.id) == before != []


def test_a_lost_attempt_of_the_job_leaves_its_own_shards_and_keeps_the_others(
    store: JobStore, shards: ShardStore, job: Job, clock: StoppedClock
) -> None:
    made = ask(shards, job)
    shards.finish(take(shards, made[0], parent_holder(1)))
    take(shards, made[1], parent_holder(1))
    helped = take(shards, made[2], "b")
    store.requeue(job.id, 1, "worker_lost", clock())
    again = claim_job(store, job.id)
    shards.finish(helped)
    found = ask(shards, again)
    assert [one.state for one in found] == [ShardState.DONE, ShardState.WAITING, ShardState.DONE]
    assert found[1].losses == 0


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.REJECTED, Status.FAILED])
def test_shards_go_with_the_end_of_their_job(store: JobStore, shards: ShardStore, job: Job, status: Status) -> None:
    taken = take(shards, ask(shards, job)[0])
    store.finish(job.id, 1, status, None, None)
    assert shards.of(job.id) == []
    with pytest.raises(AttemptSuperseded):
        shards.finish(taken)
    assert shards.claim(taken, "b", 30.0) is None


def test_a_canceled_job_has_no_shards(store: JobStore, shards: ShardStore, job: Job) -> None:
    ask(shards, job)
    store.request_cancel(job.id)
    assert shards.unsent(0.0, 10) == []
    store.finish(job.id, 1, Status.CANCELED, None, None)
    assert shards.of(job.id) == []


def test_a_message_is_due_for_each_waiting_shard_once_and_again_after_a_while(
    shards: ShardStore, job: Job, clock: StoppedClock
) -> None:
    made = ask(shards, job)
    take(shards, made[0])
    due = shards.unsent(60.0, 10)
    assert [one.number for one in due] == [1, 2]
    assert len(shards.unsent(60.0, 1)) == 1
    for one in due:
        shards.mark_sent(one)
    assert shards.unsent(60.0, 10) == []
    clock.advance(20)
    shards.heartbeat(only(shards, job), 600.0, 0.5)
    clock.advance(41)
    assert [one.number for one in shards.unsent(60.0, 10)] == [1, 2]


def test_a_message_is_due_at_once_for_a_shard_that_was_lost(shards: ShardStore, job: Job, clock: StoppedClock) -> None:
    made = ask(shards, job, count=2)
    for one in made:
        shards.mark_sent(one)
    lapsing, released = take(shards, made[0]), take(shards, made[1], "b")
    clock.advance(31)
    assert [one.number for one in shards.unsent(60.0, 10)] == [0, 1]
    shards.release(job.id, released.holder, "it died")
    assert [one.number for one in shards.unsent(60.0, 10)] == [0, 1]
    shards.mark_sent(lapsing)
    assert [one.number for one in shards.unsent(60.0, 10)] == [1]


def test_nobody_is_woken_for_what_only_the_job_itself_may_do(
    store: JobStore, shards: ShardStore, job: Job, clock: StoppedClock
) -> None:
    made = ask(shards, job, count=2)
    shards.give_back(take(shards, made[0]), GivenBack.FAILED)
    assert [one.number for one in shards.unsent(60.0, 10)] == [1]
    store.requeue(job.id, 1, "worker_lost", clock())
    assert shards.unsent(60.0, 10) == []


@pytest.mark.parametrize("question", [ENCODE, SWEEP, VALIDATE, STATES], ids=operation_of)
def test_a_question_is_read_back_as_it_was_asked_and_named_alike(
    shards: ShardStore, job: Job, question: Question
) -> None:
    (one, *_) = ask(shards, job, question)
    assert one.question == question
    assert one.step == step_of(read_question(json.loads(json.dumps(question_told(question)))))
