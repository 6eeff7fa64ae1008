"""What every KeyStore promises: keys as they were added, revoked once and for all, and sessions that lean on them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from service.foundation.errors import KeyNotFound
from service.ports.access import KeyStore
from service.records.callers import Key, Scope
from tests.factories import StoppedClock

Open = Callable[[str], KeyStore]


def make_key(clock: StoppedClock, number: int = 1, **fields: object) -> Key:
    made = Key(f"key_{number:016x}", "ci", "team-a", frozenset({Scope.JOBS_READ, Scope.ADMIN}), clock())
    return replace(made, **fields)  # type: ignore[arg-type]


def test_a_key_comes_back_with_the_digest_of_its_secret(keys: KeyStore, clock: StoppedClock) -> None:
    key = make_key(clock, name="Käse", expires=clock() + timedelta(days=1))
    keys.add(key, "d" * 64)

    assert keys.find(key.id) == (key, "d" * 64)
    assert keys.find("key_" + "f" * 16) is None


def test_keys_are_listed_newest_first_whatever_their_state(keys: KeyStore, clock: StoppedClock) -> None:
    first = make_key(clock)
    clock.advance(1)
    second = make_key(clock, 2)
    for key in (first, second):
        keys.add(key, key.id)
    keys.revoke(first.id)

    assert [key.id for key in keys.all()] == [second.id, first.id]


def test_the_first_revocation_counts(keys: KeyStore, clock: StoppedClock) -> None:
    key = make_key(clock)
    keys.add(key, "d")
    when = clock.advance(5)
    assert keys.revoke(key.id) == replace(key, revoked=when)
    clock.advance(5)

    assert keys.revoke(key.id).revoked == when
    assert keys.find(key.id) == (replace(key, revoked=when), "d")


def test_a_key_that_is_not_there_cannot_be_revoked(keys: KeyStore) -> None:
    with pytest.raises(KeyNotFound):
        keys.revoke("key_gone")


def test_the_last_use_is_noted(keys: KeyStore, clock: StoppedClock) -> None:
    key = make_key(clock)
    keys.add(key, "d")
    keys.note_use(key.id, clock.advance(7))

    assert keys.find(key.id) == (replace(key, last_used=clock()), "d")


def test_a_session_leads_to_its_key_until_it_is_removed(keys: KeyStore, clock: StoppedClock) -> None:
    key, expires = make_key(clock), clock() + timedelta(hours=1)
    keys.add(key, "d")
    keys.add_session("s1", key.id, expires)
    keys.revoke(key.id)

    assert keys.find_session("s1") == (replace(key, revoked=clock()), expires)
    assert keys.find_session("s2") is None
    for _ in range(2):
        keys.remove_session("s1")
    assert keys.find_session("s1") is None
