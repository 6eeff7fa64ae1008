"""Keyed requests as rows: reserved, answered, forgotten. Runs inside the caller's transaction."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from service.adapters.sql.database import serialize
from service.adapters.sql.tables import receipts
from service.foundation.errors import RequestInFlight
from service.records.receipts import Answer, KeyedRequest, Receipt, Reservation, answer_of


def reserve(connection: Connection, asked: KeyedRequest, now: datetime) -> Reservation | Answer:
    """The right to answer a request, or its answer: ports.JobStore.reserve."""
    serialize(connection, f"request {asked.owner} {asked.route} {asked.key}")
    row = connection.execute(select(receipts).where(*_is(asked))).mappings().one_or_none()
    if row is not None:
        before = KeyedRequest(asked.owner, asked.route, asked.key, row["fingerprint"])
        answer = answer_of(Reservation(before, row["time"], row["token"]), row["answer"], asked, now)
        if answer is not None:
            return answer
        connection.execute(delete(receipts).where(*_is(asked)))
    made = Reservation(asked, now)
    connection.execute(insert(receipts).values(**asdict(asked), time=now, token=made.token))
    return made


def keep(connection: Connection, receipt: Receipt) -> None:
    """RequestInFlight if somebody has taken the reservation over."""
    kept = (
        update(receipts).where(*_is_own(receipt.reservation), receipts.c.answer.is_(None)).values(answer=receipt.answer)
    )
    if connection.execute(kept).rowcount == 0:
        raise RequestInFlight("the same request is being answered; send it again in a second")


def give_back(connection: Connection, reservation: Reservation) -> None:
    connection.execute(delete(receipts).where(*_is_own(reservation), receipts.c.answer.is_(None)))


def forget(connection: Connection, before: datetime) -> None:
    connection.execute(delete(receipts).where(receipts.c.time < before))


def _is(request: KeyedRequest) -> tuple[ColumnElement[bool], ...]:
    return receipts.c.owner == request.owner, receipts.c.route == request.route, receipts.c.key == request.key


def _is_own(reservation: Reservation) -> tuple[ColumnElement[bool], ...]:
    return *_is(reservation.request), receipts.c.token == reservation.token
