"""Shards of a job between its own attempt and helpers: each done once, in order, whoever does which."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headroom.contract.answers.job import EventView, Status
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.files.shard_files import DirectoryShardFiles
from service.foundation.errors import AttemptSuperseded, JobCanceled, ModelNotFound, OutOfMemory, WorkerLost
from service.foundation.settings import Settings
from service.records.job import Job
from service.records.shards import (
    NOT_HEARD_OF,
    PATIENCE,
    EncodeQuestion,
    GivenBack,
    Question,
    Shard,
    ShardState,
    SweepQuestion,
    answer_name,
    cache_name,
    in_order_of_choice,
    parent_holder,
)
from tests.factories import StoppedClock, add_running_job
from tests.in_memory.job_store import MemoryJobStore
from tests.in_memory.queue import MemoryQueue
from workers.attempts.attempt import worker_name
from workers.attempts.shard_helper import help_with_shards
from workers.processes.shard_process import Helper
from workers.shards.claims import do_shard
from workers.shards.pool import StoreShardPool
from workers.sweeper import send_shards
from workers.sweeping.dead_attempts import discard_stale
from workers.wiring import Parts

QUESTION = EncodeQuestion(windows="w", shards=4, model="m", revision=None)
SWEEP = SweepQuestion(**vars(QUESTION), head="h", sizes=(8,), top=5)

Progress = Callable[[float], None]


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def parts(tmp_path: Path, clock: StoppedClock) -> Parts:
    settings = Settings(data_dir=tmp_path, heartbeat_seconds=0.01, lease_seconds=30, cancel_grace_seconds=0.1)
    corpora = DirectoryCorpora(tmp_path / "corpora", 1000, clock)
    files = DirectoryShardFiles(tmp_path / "shards")
    return Parts(settings, MemoryJobStore(clock), DirectoryArtifacts(tmp_path / "artifacts"), corpora, files, clock)


@pytest.fixture
def job(parts: Parts) -> Job:
    return add_running_job(parts.store)


def pool_of(job: Job, parts: Parts, pause: Callable[[float], None] = lambda seconds: None) -> StoreShardPool:
    return StoreShardPool(job, 4, parts, pause)


def write_number(number: int, into: Path, progress: Progress) -> None:
    progress(0.5)
    into.write_text(str(number))


def contents(paths: list[Path]) -> list[str]:
    return [path.read_text() for path in paths]


class Engine:
    """Stands for the engine of a helper; `fail` is raised, if any."""

    def __init__(self, fail: Exception | None = None) -> None:
        self.done: list[int] = []
        self._fail = fail

    def work(self, question: Question, number: int, into: Path, progress: Progress) -> None:
        progress(0.5)
        if self._fail is not None:
            raise self._fail
        into.write_text(str(number))
        self.done.append(number)


def helper_of(job: Job, parts: Parts, engine: Engine, is_stopping: Callable[[], bool] = lambda: False) -> Helper:
    return Helper(job.id, "b:1", parts, is_stopping, lambda shard: engine, lambda seconds: None)


def ask(parts: Parts, job: Job, question: Question = QUESTION) -> list[Shard]:
    parts.store.shards.ask(job.id, job.attempt, question, 4)
    return parts.store.shards.of(job.id)


def take(parts: Parts, shard: Shard, holder: str = "a:1") -> Shard:
    taken = parts.store.shards.claim(shard, holder, 30.0)
    assert taken is not None
    return taken


def test_a_job_without_any_other_worker_does_all_its_shards(parts: Parts, job: Job) -> None:
    told: list[float] = []
    answers = pool_of(job, parts).answer(QUESTION, 4, write_number, told.append)
    assert contents(answers) == ["0", "1", "2", "3"]
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert 0.125 in told


def test_a_question_that_was_answered_is_not_worked_on_again(parts: Parts, job: Job, clock: StoppedClock) -> None:
    pool_of(job, parts).answer(QUESTION, 4, write_number, lambda done: None)
    parts.store.requeue(job.id, 1, "worker_lost", clock())
    again = parts.store.claim(job.id, "w2", 30.0)
    assert again is not None

    def never(number: int, into: Path, progress: Progress) -> None:
        raise AssertionError("it was done before")

    assert contents(pool_of(again, parts).answer(QUESTION, 4, never, lambda done: None)) == ["0", "1", "2", "3"]


def test_an_answer_whose_file_is_gone_is_computed_again(parts: Parts, job: Job) -> None:
    pool_of(job, parts).answer(QUESTION, 4, write_number, lambda done: None)
    parts.shard_files.remove(job.id)
    assert contents(pool_of(job, parts).answer(QUESTION, 4, write_number, lambda done: None)) == ["0", "1", "2", "3"]


def test_parent_and_helper_do_each_shard_once(parts: Parts, job: Job) -> None:
    ask(parts, job)
    engine, own = Engine(), []
    started = threading.Event()

    def work(number: int, into: Path, progress: Progress) -> None:
        own.append(number)
        started.set()
        helping.join()  # the helper does all others meanwhile
        write_number(number, into, progress)

    def help_along() -> None:
        started.wait()
        helper_of(job, parts, engine).help()

    helping = threading.Thread(target=help_along)
    helping.start()
    answers = pool_of(job, parts).answer(QUESTION, 4, work, lambda done: None)
    assert contents(answers) == ["0", "1", "2", "3"]
    assert (own, sorted(engine.done)) == ([0], [1, 2, 3])


def test_the_parent_waits_for_a_shard_of_another_worker(parts: Parts, job: Job) -> None:
    taken = take(parts, ask(parts, job)[3])
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            do_shard(taken, parts, write_number, GivenBack.FAILED, lambda done: None)

    answers = pool_of(job, parts, pause).answer(QUESTION, 4, write_number, lambda done: None)
    assert contents(answers) == ["0", "1", "2", "3"]
    assert len(waited) == 3


def test_a_shard_whose_worker_died_is_done_again_alone(parts: Parts, job: Job, clock: StoppedClock) -> None:
    take(parts, ask(parts, job)[2])
    done: list[int] = []

    def work(number: int, into: Path, progress: Progress) -> None:
        done.append(number)
        write_number(number, into, progress)

    pool = pool_of(job, parts, lambda seconds: clock.advance(31) and None)
    assert contents(pool.answer(QUESTION, 4, work, lambda done: None)) == ["0", "1", "2", "3"]
    assert done == [0, 1, 3, 2]
    assert pool.losses == 1


def test_a_shard_that_kills_every_worker_ends_the_job(parts: Parts, job: Job) -> None:
    for _ in range(parts.settings.max_attempts):
        shard = next(one for one in ask(parts, job) if one.number == 1)
        parts.store.shards.give_back(take(parts, shard), GivenBack.LOST)
    with pytest.raises(WorkerLost, match="shard 2 of 4 took 3 workers with it"):
        pool_of(job, parts).answer(QUESTION, 4, write_number, lambda done: None)


def losses(parts: Parts, job: Job) -> list[tuple[int, str, str, str]]:
    """Shard, worker, why and message of each event of a lost shard."""
    found = [EventView.model_validate(event).shard_loss for event in parts.store.events(job.id, 0, 100)]
    return [(loss.shard, loss.worker, loss.why, loss.message) for loss in found if loss is not None]


def test_the_last_loss_of_a_shard_is_told_before_the_job_fails_of_it(
    parts: Parts, job: Job, clock: StoppedClock
) -> None:
    for _ in range(parts.settings.max_attempts):
        taken = take(parts, next(one for one in ask(parts, job) if one.number == 1))
        clock.advance(31)
    for one in ask(parts, job):
        if one.number != 1:
            parts.store.shards.finish(take(parts, one, "b:1"))
    with pytest.raises(WorkerLost):
        pool_of(job, parts).answer(QUESTION, 4, write_number, lambda done: None)
    assert losses(parts, job) == [(2, taken.holder, "lost", NOT_HEARD_OF)] * 3


def test_an_attempt_whose_job_has_ended_waits_for_no_shard(parts: Parts, job: Job) -> None:
    take(parts, ask(parts, job)[3])

    def pause(seconds: float) -> None:
        parts.store.finish(job.id, 1, Status.FAILED, None, None)

    with pytest.raises(AttemptSuperseded):
        pool_of(job, parts, pause).answer(QUESTION, 4, write_number, lambda done: None)


def test_what_a_helper_fails_at_the_parent_does(parts: Parts, job: Job) -> None:
    ask(parts, job)
    with pytest.raises(ModelNotFound):
        helper_of(job, parts, Engine(ModelNotFound("not here"))).help()
    shards = parts.store.shards.of(job.id)
    assert [shard.only_parent for shard in shards] == [True, False, False, False]
    assert losses(parts, job) == [(1, "b:1", "failed", "not here")]
    engine = Engine()
    assert helper_of(job, parts, engine).help() == 3
    assert engine.done == [1, 2, 3]
    answers = pool_of(job, parts).answer(QUESTION, 4, write_number, lambda done: None)
    assert contents(answers) == ["0", "1", "2", "3"]


def test_what_the_parent_fails_at_is_the_error_of_the_job(parts: Parts, job: Job) -> None:
    def work(number: int, into: Path, progress: Progress) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        pool_of(job, parts).answer(QUESTION, 4, work, lambda done: None)
    assert {shard.state for shard in parts.store.shards.of(job.id)} == {ShardState.WAITING}


def test_a_helper_that_is_told_to_stop_gives_its_shard_back_without_a_loss(parts: Parts, job: Job) -> None:
    ask(parts, job)
    with pytest.raises(JobCanceled):
        helper_of(job, parts, Engine(), is_stopping=lambda: True).help()
    first = parts.store.shards.of(job.id)[0]
    assert (first.state, first.attempt, first.losses, first.only_parent) == (ShardState.WAITING, 1, 0, False)
    assert losses(parts, job) == []


def test_an_unknown_error_of_a_helper_is_a_typed_one(parts: Parts, job: Job) -> None:
    ask(parts, job)
    with pytest.raises(OutOfMemory):
        helper_of(job, parts, Engine(MemoryError())).help()


def test_the_lease_of_a_shard_is_kept_while_it_is_done_with_how_far_it_is(parts: Parts, job: Job) -> None:
    taken = take(parts, ask(parts, job)[0])
    kept = threading.Event()
    beat = parts.store.shards.heartbeat

    def heartbeat(shard: Shard, seconds: float, progress: float) -> None:
        beat(shard, seconds, progress)
        if progress == 0.5:
            kept.set()

    parts.store.shards.heartbeat = heartbeat  # type: ignore[method-assign]

    def work(number: int, into: Path, progress: Progress) -> None:
        progress(0.5)
        assert kept.wait(10)
        assert parts.store.shards.of(job.id)[0].progress == 0.5
        into.write_text("")

    assert do_shard(taken, parts, work, GivenBack.FAILED, lambda done: None)


def test_work_on_a_shard_that_somebody_took_over_is_dropped(parts: Parts, job: Job, clock: StoppedClock) -> None:
    taken = take(parts, ask(parts, job)[0])

    def work(number: int, into: Path, progress: Progress) -> None:
        into.write_text("late")
        clock.advance(3600)
        other = parts.store.shards.claim(parts.store.shards.of(job.id)[0], "b:1", 30.0)
        while other is None:  # a heartbeat came in between
            clock.advance(3600)
            other = parts.store.shards.claim(parts.store.shards.of(job.id)[0], "b:1", 30.0)

    assert not do_shard(taken, parts, work, GivenBack.FAILED, lambda done: None)
    now = parts.store.shards.of(job.id)[0]
    assert (now.holder, now.attempt, now.state) == ("b:1", 2, ShardState.RUNNING)


def test_a_worker_prefers_what_it_has_and_leaves_the_rest_a_while_to_those_who_have_it(clock: StoppedClock) -> None:
    shards = [Shard("job", "s", number, SWEEP, clock()) for number in range(4)]

    def chosen(now: datetime) -> list[int]:
        found = in_order_of_choice(shards, now, lambda shard: shard.number == 2, is_parent=False)
        return [shard.number for shard in found]

    assert chosen(clock()) == [2]
    assert chosen(clock() + PATIENCE) == [2, 0, 1, 3]


def test_hidden_states_of_a_shard_have_one_name_for_every_question_about_its_windows() -> None:
    assert cache_name(QUESTION, 1) == cache_name(SWEEP, 1)
    assert len({cache_name(replace(QUESTION, shards=count), number) for count in (3, 4) for number in (0, 1)}) == 4


class Process:
    """Of a helper; ends after some looks at it, or when told to."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.ended = False

    def wait(self, seconds: float) -> int | None:
        self.looks -= 1
        return 0 if self.looks <= 0 else None

    def end(self, grace_seconds: float) -> int:
        self.ended = True
        return self.kill()

    def kill(self) -> int:
        return 0


def test_nobody_helps_where_there_is_nothing_to_do(parts: Parts, job: Job) -> None:
    def start(job_id: str, holder: str) -> Process:
        raise AssertionError("there is nothing to do")

    assert not help_with_shards(job.id, parts, lambda: False, start)
    for shard in ask(parts, job):
        take(parts, shard)
    assert not help_with_shards(job.id, parts, lambda: False, start)
    assert not help_with_shards("job_none", parts, lambda: False, start)


def test_what_a_helping_process_held_when_it_died_is_lost_at_once(parts: Parts, job: Job) -> None:
    shards = ask(parts, job)

    def start(job_id: str, holder: str) -> Process:
        take(parts, shards[1], holder)
        return Process(3)

    assert help_with_shards(job.id, parts, lambda: False, start)
    lost = parts.store.shards.of(job.id)[1]
    assert (lost.state, lost.losses) == (ShardState.WAITING, 1)
    assert losses(parts, job) == [(2, worker_name(), "lost", "its process ended with exit code 0")]


@pytest.mark.parametrize("why", ["canceled", "deleted", "stopped"])
def test_a_helping_process_is_ended_when_its_job_is_or_its_worker(parts: Parts, job: Job, why: str) -> None:
    ask(parts, job)
    process = Process(1_000_000)

    def start(job_id: str, holder: str) -> Process:
        if why == "canceled":
            parts.store.request_cancel(job.id)
        if why == "deleted":
            parts.store.finish(job.id, 1, Status.FAILED, None, None)
            parts.store.remove(job.id)
        return process

    help_with_shards(job.id, parts, lambda: why == "stopped", start)
    assert process.ended


def test_a_message_wakes_a_worker_for_each_waiting_shard(parts: Parts, job: Job, clock: StoppedClock) -> None:
    take(parts, ask(parts, job)[0], parent_holder(1))
    queue = MemoryQueue()
    send_shards(parts, queue)
    send_shards(parts, queue)
    assert queue.sent == [job.id] * 3
    clock.now += timedelta(seconds=parts.settings.resend_after_seconds)
    send_shards(parts, queue)
    assert queue.sent == [job.id] * 7  # the parent's shard has lapsed too


def test_files_of_shards_stay_until_their_job_has_ended(parts: Parts, job: Job, clock: StoppedClock) -> None:
    pool_of(job, parts).answer(QUESTION, 4, write_number, lambda done: None)
    name = answer_name(parts.store.shards.of(job.id)[0])
    discard_stale(parts)
    parts.store.requeue(job.id, 1, "worker_lost", clock())
    discard_stale(parts)
    assert parts.shard_files.get(job.id, name) is not None
    parts.store.request_cancel(job.id)
    discard_stale(parts)
    assert parts.shard_files.jobs() == set()
