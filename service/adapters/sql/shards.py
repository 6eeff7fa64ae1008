"""SqlShards: shards of running jobs over SQLite or PostgreSQL. They go where their job ends: sql_rows.py."""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, insert, or_, select, update

from headroom.contract.answers.job import Status
from headroom.contract.answers.shard_loss import ShardLoss
from service.adapters.sql.database import Database
from service.adapters.sql.tables import jobs, shards
from service.foundation.errors import AttemptSuperseded, ServiceError
from service.ports.jobs import Clock
from service.records.job import Job
from service.records.shards import (
    NOT_HEARD_OF,
    GivenBack,
    Question,
    Shard,
    ShardState,
    claimed,
    finished,
    given_back,
    loss_of,
    new_shards,
    question_told,
    read_question,
    step_of,
)
from service.records.transitions import Change, shard_lost

CHANGING = ("state", "attempt", "holder", "lease_until", "progress", "losses", "only_parent", "sent")


class SqlShards:
    """ports.ShardStore over the database of the jobs.

    lock_held: takes a job's row for an attempt that owns it; lock: for anybody; save: writes the change of a job whose
    row was taken. The row of the job is taken before those of its shards, as whoever ends the job does.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        lock_held: Callable[[Connection, str, int], object],
        lock: Callable[[Connection, str], Job | None],
        save: Callable[[Connection, Job, Change, datetime], object],
    ) -> None:
        self._database = database
        self._clock = clock
        self._lock_held = lock_held
        self._lock = lock
        self._save_change = save

    def ask(self, job_id: str, attempt: int, question: Question, count: int) -> None:
        with self._database.writing() as connection:
            self._lock_held(connection, job_id, attempt)
            others = shards.c.step != step_of(question)
            unfinished = shards.c.state != ShardState.DONE.value
            connection.execute(delete(shards).where(shards.c.job_id == job_id, others, unfinished))
            known = select(shards.c.number).where(shards.c.job_id == job_id, shards.c.step == step_of(question))
            there = set(connection.scalars(known))
            missing = [one for one in new_shards(job_id, question, count, self._clock()) if one.number not in there]
            if missing:
                connection.execute(
                    insert(shards), [vars(one) | {"question": question_told(one.question)} for one in missing]
                )

    def of(self, job_id: str) -> list[Shard]:
        query = select(shards).where(shards.c.job_id == job_id).order_by(shards.c.step, shards.c.number)
        with self._database.reading() as connection:
            return [_shard_of(row) for row in connection.execute(query).mappings()]

    def claim(self, shard: Shard, holder: str, lease_seconds: float) -> Shard | None:
        now = self._clock()
        if not shard.is_open(now):
            return None
        after = claimed(shard, holder, now, lease_seconds)
        with self._database.writing() as connection:
            # Its holder may have been heard of since the shard was read.
            same = (shards.c.attempt == shard.attempt, shards.c.state == shard.state.value, _is_open(now))
            loss = loss_of(shard, GivenBack.LOST) if shard.has_lapsed(now) else None
            return after if self._save_and_tell(connection, after, loss, *same) else None

    def heartbeat(self, shard: Shard, lease_seconds: float, progress: float) -> None:
        lease_until = self._clock() + timedelta(seconds=lease_seconds)
        held = update(shards).where(*_is(shard), *_is_held(shard)).values(lease_until=lease_until, progress=progress)
        with self._database.writing() as connection:
            if connection.execute(held).rowcount == 0:
                raise _superseded(shard)

    def finish(self, shard: Shard) -> None:
        with self._database.writing() as connection:
            if not _save(connection, finished(shard), *_is_held(shard)):
                raise _superseded(shard)

    def give_back(self, shard: Shard, why: GivenBack, said: ServiceError | str = NOT_HEARD_OF) -> None:
        with self._database.writing() as connection:
            self._save_and_tell(connection, given_back(shard, why), loss_of(shard, why, said), *_is_held(shard))

    def release(self, job_id: str, holder: str, said: str) -> int:
        with self._database.writing() as connection:
            given = 0
            for shard in _held_by(connection, job_id, holder):
                loss = loss_of(shard, GivenBack.LOST, said)
                after = given_back(shard, GivenBack.LOST)
                given += self._save_and_tell(connection, after, loss, *_is_held(shard))
            return given

    def unsent(self, older_than_seconds: float, limit: int) -> list[Shard]:
        now = self._clock()
        told = shards.c.sent <= now - timedelta(seconds=older_than_seconds)
        lapsed_since = and_(shards.c.state == ShardState.RUNNING.value, shards.c.sent <= shards.c.lease_until)
        query = (
            select(shards)
            .join(jobs, jobs.c.id == shards.c.job_id)
            .where(jobs.c.status == Status.RUNNING.value, _is_open(now), shards.c.only_parent.is_(False))
            .where(or_(shards.c.sent.is_(None), told, lapsed_since))
            .order_by(shards.c.created, shards.c.number)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [_shard_of(row) for row in connection.execute(query).mappings()]

    def mark_sent(self, shard: Shard) -> None:
        with self._database.writing() as connection:
            connection.execute(update(shards).where(*_is(shard)).values(sent=self._clock()))

    def _save_and_tell(
        self, connection: Connection, after: Shard, loss: ShardLoss | None, *conditions: ColumnElement[bool]
    ) -> bool:
        """Whether the row met the conditions. A loss goes into the history of the job in the same transaction."""
        job = None if loss is None else self._lock(connection, after.job_id)
        if not _save(connection, after, *conditions):
            return False
        if job is not None and loss is not None:
            self._save_change(connection, job, shard_lost(job, loss), self._clock())
        return True


def release(connection: Connection, job_id: str, holder: str, why: GivenBack) -> int:
    """Give back all that a holder has of a job, and tell nobody; how many there were."""
    held = _held_by(connection, job_id, holder)
    return sum(_save(connection, given_back(shard, why), *_is_held(shard)) for shard in held)


def _held_by(connection: Connection, job_id: str, holder: str) -> list[Shard]:
    query = select(shards).where(
        shards.c.job_id == job_id, shards.c.holder == holder, shards.c.state == ShardState.RUNNING.value
    )
    return [_shard_of(row) for row in connection.execute(query).mappings()]


def remove_all(connection: Connection, job_id: str) -> None:
    connection.execute(delete(shards).where(shards.c.job_id == job_id))


def _is_open(now: datetime) -> ColumnElement[bool]:
    lapsed = and_(shards.c.state == ShardState.RUNNING.value, shards.c.lease_until < now)
    return or_(shards.c.state == ShardState.WAITING.value, lapsed)


def _is(shard: Shard) -> tuple[ColumnElement[bool], ...]:
    return shards.c.job_id == shard.job_id, shards.c.step == shard.step, shards.c.number == shard.number


def _is_held(shard: Shard) -> tuple[ColumnElement[bool], ...]:
    return shards.c.state == ShardState.RUNNING.value, shards.c.attempt == shard.attempt


def _save(connection: Connection, after: Shard, *conditions: ColumnElement[bool]) -> bool:
    """Whether the row met the conditions."""
    values = {name: value for name, value in vars(after).items() if name in CHANGING}
    return connection.execute(update(shards).where(*_is(after), *conditions).values(values)).rowcount > 0


def _superseded(shard: Shard) -> AttemptSuperseded:
    return AttemptSuperseded(f"claim {shard.attempt} no longer holds shard {shard.number} of job {shard.job_id}")


def _shard_of(row: RowMapping) -> Shard:
    return Shard(**(dict(row) | {"state": ShardState(row["state"]), "question": read_question(row["question"])}))
