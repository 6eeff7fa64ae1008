"""Figures as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from headroom.views.figures import age, duration, percent, printable, size


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.00006, "+0.006 %"),
        (-0.00006, "-0.006 %"),
        (0.00999, "+0.999 %"),
        (0.009996, "+1.00 %"),  # rounds up into the next form, never +1.000 %
        (0.0115, "+1.15 %"),
        (0.117, "+11.7 %"),
        (3.58, "+358 %"),
        (0.0, "+0.000 %"),
        (None, "-"),
    ],
)
def test_per_cents_keep_three_digits(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (999_700, "1.00 MB"),
        (26_000_000, "26.0 MB"),
        (5_242_880, "5.24 MB"),
        (3.2e15, "3200 TB"),
    ],
)
def test_sizes_keep_three_digits(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (59.96, "1 min 00 s"), (3599, "59 min 59 s"), (3660, "1 h 01 min")],
)
def test_durations_change_their_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_age_is_one_figure_and_never_negative() -> None:
    now = datetime.now(UTC)
    assert age(now - timedelta(hours=30)) == "1 d"
    assert age(now - timedelta(minutes=5)) == "5 min"
    assert age(now + timedelta(minutes=5)) == "0 s"  # the server's clock is ahead
    assert age(None) == ""


def test_foreign_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc") == "a\ufffd[31mb\ufffdc"
