from datetime import UTC, datetime

from tests.factories import StoppedClock
from workers.attempts.stopping import Stopping


def test_an_attempt_ends_when_its_time_after_the_first_word_is_over() -> None:
    clock = StoppedClock(datetime(2026, 1, 1, tzinfo=UTC))
    stopping = Stopping(30.0, lambda: clock.now.timestamp())
    clock.advance(1000)
    assert not stopping.is_due()
    stopping.tell()
    clock.advance(29)
    stopping.tell()
    assert not stopping.is_due()
    clock.advance(1)
    assert stopping.is_due()


def test_without_a_drain_it_ends_at_once() -> None:
    stopping = Stopping(0.0)
    stopping.tell()
    assert stopping.is_due()
