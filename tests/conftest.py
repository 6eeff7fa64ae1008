"""Markers that need something this machine may lack are skipped in plain sight."""

import gc
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgresql_server import PostgresqlServer, find_programs
from tests.s3_server import S3Server, set_environment
from tests.vllm.environment import VLLM_PYTHON

# Tests run side by side, and operator threads of one wait, busily, for what the other's have: a third of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; a test of threads asks for some
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # job processes start two all the same
gc.disable()  # until all modules of tests and libraries are imported: they stay
# Some machines set it: each of some hundred processes would compile all of our modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
TESTS_BETWEEN = 60  # take about as long as a file of tests that start processes
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_sessionstart() -> None:
    # What starts the tests in the background may have them ignore these, and so would every child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("shared"):  # trained models in bfloat16 take minutes on a CPU without AVX-512
            item.add_marker(pytest.mark.timeout(900))
        if item.get_closest_marker("shared") and not (SHARED / "models").is_dir():
            item.add_marker(pytest.mark.skip(reason="no ../shared with reference models"))
        if item.get_closest_marker("vllm") and not VLLM_PYTHON.exists():
            item.add_marker(pytest.mark.skip(reason="no environment with vLLM: `make test-vllm` makes one"))
    items.sort(key=_slowness, reverse=True)
    items[:] = _spread(items)


def pytest_collection_finish() -> None:
    # What every job and every collection of garbage would look through again: the libraries, for 0.3 s a time.
    gc.enable()
    gc.collect()
    gc.freeze()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _slowness(item: pytest.Item) -> int:
    """Slow files first: they are given out whole, and one that begins last is waited for alone. The sort is stable."""
    return 2 * bool(item.get_closest_marker("processes")) + bool(item.get_closest_marker("slow"))


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """The same, with others between files of processes: what starts processes often waits, and leaves cores idle."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.split("::")[0], []).append(item)
    waiting = [tests for tests in files.values() if not tests[0].get_closest_marker("processes")]
    spread: list[pytest.Item] = []
    for tests in files.values():
        if tests[0].get_closest_marker("processes"):
            spread += tests
            until = len(spread) + TESTS_BETWEEN
            while waiting and len(spread) < until:
                spread += waiting.pop(0)
    return spread + [item for tests in waiting for item in tests]


@pytest.fixture
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A real server for the whole session. Tests that use it carry the marker `postgresql`."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server: install it, or run as root on Debian")
    with PostgresqlServer(programs) as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: PostgresqlServer) -> str:
    """A database with the present schema and without rows, shared by the tests of this process one after another."""
    return postgresql.emptied_database()


@pytest.fixture
def empty_postgresql_url(postgresql: PostgresqlServer) -> Iterator[str]:
    """A database of this test alone, without any table."""
    url = postgresql.create_database()
    yield url
    postgresql.drop_database(url)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server for the whole session."""
    with S3Server(tmp_path_factory.mktemp("s3") / "requests.log") as server:
        yield server


@pytest.fixture
def bucket_url(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, as HEADROOM_STORAGE_URL wants it; the environment says where and by which key."""
    set_environment(monkeypatch, s3.environment)
    name = f"test-{secrets.token_hex(8)}"
    s3.make_bucket(name)
    return f"s3://{name}/some/prefix"
