from datetime import UTC, datetime, timedelta

import pytest

from service.access.authentication import Authentication
from service.foundation.errors import StoreUnavailable, Unauthenticated
from service.records.callers import Caller, Key, Scope, digest_of, key_id_of, new_secret
from tests.factories import StoppedClock
from tests.in_memory.access import MemoryKeys

SCOPES = frozenset({Scope.JOBS_READ})


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture
def keys(clock: StoppedClock) -> MemoryKeys:
    return MemoryKeys(clock)


@pytest.fixture
def authentication(keys: MemoryKeys, clock: StoppedClock) -> Authentication:
    return Authentication(keys, clock)


def make(keys: MemoryKeys, clock: StoppedClock, lasts: timedelta | None = None) -> tuple[Key, str]:
    key_id, secret = new_secret()
    key = Key(key_id, "ci", "team-a", SCOPES, clock(), clock() + lasts if lasts else None)
    keys.add(key, digest_of(secret))
    return key, secret


def test_secrets_are_long_different_and_name_their_key() -> None:
    made = {new_secret() for _ in range(100)}
    assert len({secret for _, secret in made}) == 100
    assert all(key_id_of(secret) == key_id and len(secret.split("_", 2)[2]) == 43 for key_id, secret in made)


def test_a_key_tells_who_asks(keys: MemoryKeys, clock: StoppedClock, authentication: Authentication) -> None:
    key, secret = make(keys, clock)
    assert authentication.by_key(secret) == Caller("team-a", SCOPES, key.id)


@pytest.mark.parametrize(
    "secret", ["", "hr_", "hf_abcdefgh", "hr_0123456789abcdef_" + "A" * 43, "\ud800", "x" * 10_000]
)
def test_what_is_no_key_is_refused(authentication: Authentication, secret: str) -> None:
    with pytest.raises(Unauthenticated):
        authentication.by_key(secret)


def test_the_secret_decides_not_the_id_in_it(
    keys: MemoryKeys, clock: StoppedClock, authentication: Authentication
) -> None:
    _, secret = make(keys, clock)
    with pytest.raises(Unauthenticated):
        authentication.by_key(secret[:-1] + ("A" if secret[-1] != "A" else "B"))


def test_expiry_and_revocation_end_a_key_and_its_sessions(
    keys: MemoryKeys, clock: StoppedClock, authentication: Authentication
) -> None:
    short, short_secret = make(keys, clock, timedelta(minutes=1))
    long, long_secret = make(keys, clock)
    tokens = [authentication.open_session(secret).token for secret in (short_secret, long_secret)]
    assert [authentication.by_session(token).key_id for token in tokens] == [short.id, long.id]
    clock.advance(60)
    keys.revoke(long.id)

    told = set()
    for call, shown in zip(
        [authentication.by_key] * 2 + [authentication.by_session] * 2, [short_secret, long_secret, *tokens], strict=True
    ):
        with pytest.raises(Unauthenticated) as raised:
            call(shown)
        told.add(raised.value.message)
    assert len(told) == 2  # of a key and of a session; never why


def test_a_session_lasts_twelve_hours_at_most(
    keys: MemoryKeys, clock: StoppedClock, authentication: Authentication
) -> None:
    session = authentication.open_session(make(keys, clock)[1])
    assert session.expires == clock() + timedelta(hours=12)
    clock.advance(12 * 3600)
    with pytest.raises(Unauthenticated):
        authentication.by_session(session.token)


def test_a_closed_session_is_over_and_its_key_is_not(
    keys: MemoryKeys, clock: StoppedClock, authentication: Authentication
) -> None:
    _, secret = make(keys, clock)
    token = authentication.open_session(secret).token
    authentication.close_session(token)
    with pytest.raises(Unauthenticated):
        authentication.by_session(token)
    assert authentication.by_key(secret).owner == "team-a"


def test_the_last_use_is_written_once_in_ten_minutes(
    keys: MemoryKeys, clock: StoppedClock, authentication: Authentication, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = make(keys, clock)
    written: list[datetime] = []
    note = keys.note_use
    monkeypatch.setattr(keys, "note_use", lambda key_id, time: (written.append(time), note(key_id, time)))
    for _ in range(21):
        authentication.by_key(secret)
        clock.advance(60)
    assert len(written) == 3


def test_a_database_that_can_only_be_read_refuses_nobody(
    keys: MemoryKeys, clock: StoppedClock, authentication: Authentication, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("read only")

    monkeypatch.setattr(keys, "note_use", away)
    assert authentication.by_key(make(keys, clock)[1]).owner == "team-a"


def test_only_an_admin_sees_what_belongs_to_others() -> None:
    admin, reader = Caller("a", frozenset({Scope.ADMIN})), Caller("a", SCOPES)
    assert (admin.sees, reader.sees) == (None, "a")
    assert all(admin.may(scope) for scope in Scope)
    assert [scope for scope in Scope if reader.may(scope)] == [Scope.JOBS_READ]
