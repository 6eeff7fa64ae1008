"""What every JobStore promises of keyed requests: one of them does the work, and all hear what it came to."""

from dataclasses import replace
from typing import Any

import pytest

from service.foundation.errors import IdempotencyKeyReused, JobNotFound, RequestInFlight
from service.ports.jobs import JobFilter, JobStore
from service.records.receipts import KeyedRequest, Receipt, Reservation
from tests.factories import StoppedClock, make_job, run_at_once

ASKED = KeyedRequest("a", "POST /v1/jobs", "k-1", "f" * 64)
ANSWER = {"status": 202, "body": "ö"}
DAY = 24 * 3600


def reserve(store: JobStore, request: KeyedRequest = ASKED) -> Reservation:
    made = store.reserve(request)
    assert isinstance(made, Reservation)
    return made


def work(store: JobStore, reservation: Reservation) -> str:
    job = make_job()
    store.add(job, Receipt(reservation, ANSWER))
    return job.id


def test_a_request_is_answered_once_and_the_answer_is_kept(store: JobStore) -> None:
    work(store, reserve(store))
    assert store.reserve(ASKED) == store.reserve(ASKED) == ANSWER


@pytest.mark.parametrize("other", [{"owner": "b"}, {"route": "POST /v1/other"}, {"key": "k-2"}])
def test_another_owner_route_or_key_is_another_request(store: JobStore, other: dict[str, Any]) -> None:
    reserve(store)
    assert reserve(store, replace(ASKED, **other))


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_key_cannot_be_used_for_something_else(store: JobStore, is_answered: bool) -> None:
    reservation = reserve(store)
    if is_answered:
        work(store, reservation)
    with pytest.raises(IdempotencyKeyReused):
        store.reserve(replace(ASKED, fingerprint="e" * 64))


def test_while_it_is_answered_the_same_request_waits(store: JobStore, clock: StoppedClock) -> None:
    reserve(store)
    clock.advance(59)
    with pytest.raises(RequestInFlight):
        store.reserve(ASKED)


def test_a_request_that_was_refused_may_be_tried_again(store: JobStore) -> None:
    store.give_back(reserve(store))
    work(store, again := reserve(store))
    store.give_back(again)  # too late: it has an answer
    assert store.reserve(ASKED) == ANSWER


def test_of_a_request_that_was_taken_over_nothing_is_stored(store: JobStore, clock: StoppedClock) -> None:
    lost, job = reserve(store), make_job()
    clock.advance(60)
    second = reserve(store)
    store.give_back(lost)  # not its own any more

    with pytest.raises(RequestInFlight):
        store.add(job, Receipt(lost, ANSWER))
    with pytest.raises(JobNotFound):
        store.get(job.id)
    assert work(store, second)
    with pytest.raises(RequestInFlight):
        store.add(job, Receipt(second, ANSWER))
    assert len(store.page(JobFilter(), 10, None).jobs) == 1


def test_after_a_day_a_key_is_free(store: JobStore, clock: StoppedClock) -> None:
    work(store, reserve(store))
    clock.advance(DAY - 1)
    assert store.reserve(ASKED) == ANSWER
    clock.advance(1)
    assert reserve(store, replace(ASKED, fingerprint="e" * 64))


def test_old_requests_are_forgotten_and_newer_ones_are_not(store: JobStore, clock: StoppedClock) -> None:
    work(store, reserve(store))
    newer = replace(ASKED, key="k-2")
    clock.advance(10)
    work(store, reserve(store, newer))
    store.forget_requests(clock())

    assert store.reserve(newer) == ANSWER
    assert reserve(store)


def test_of_many_equal_requests_at_once_one_gets_to_work(store: JobStore) -> None:
    def ask(_: int) -> bool:
        try:
            return isinstance(store.reserve(ASKED), Reservation)
        except RequestInFlight:
            return False

    assert run_at_once(8, ask).count(True) == 1
