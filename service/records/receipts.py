"""Requests that carry a key of their own (Idempotency-Key), so that sending one again does nothing again.

    reserve ─► the work ─► the job and the kept answer, in one transaction
                 └─ refused, or an error: the reservation is given back, and nothing is kept

A process may die in between: after a while the next request takes the reservation over, and the token fences the first.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from service.foundation.errors import IdempotencyKeyReused, RequestInFlight

KEPT_FOR = timedelta(hours=24)
ABANDONED_AFTER = timedelta(seconds=60)

Answer = dict[str, Any]  # JSON that whoever keeps it understands


@dataclass(frozen=True)
class KeyedRequest:
    """Two requests with the same owner, route and key are one, and must be the same: `fingerprint`."""

    owner: str
    route: str
    key: str
    fingerprint: str


@dataclass(frozen=True)
class Reservation:
    request: KeyedRequest
    time: datetime
    token: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True)
class Receipt:
    """What is kept once the work is done."""

    reservation: Reservation
    answer: Answer


def answer_of(reservation: Reservation, answer: Answer | None, asked: KeyedRequest, now: datetime) -> Answer | None:
    """What is known of a request that was reserved before: its answer, or None if `asked` may take it over.

    IdempotencyKeyReused, RequestInFlight.
    """
    age = now - reservation.time
    if age >= KEPT_FOR:
        return None
    if reservation.request.fingerprint != asked.fingerprint:
        raise IdempotencyKeyReused("this Idempotency-Key came with another request before; use a new one")
    if answer is None and age < ABANDONED_AFTER:
        raise RequestInFlight("the same request is being answered; send it again in a second")
    return answer
