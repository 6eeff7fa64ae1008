"""A group of real processes ends as a whole."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from workers.attempts.process_group import ProcessGroup, describe_exit

pytestmark = pytest.mark.processes

# Starts a grandchild, writes its pid, and waits; with "deaf" it ignores SIGTERM.
PARENT = """
import signal, subprocess, sys, time
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(child.pid))
import os
os.rename(sys.argv[1] + ".new", sys.argv[1])
if sys.argv[2] != "leave":
    time.sleep(60)
"""


class Family:
    """A leader and its child, running."""

    def __init__(self, folder: Path, manner: str) -> None:
        note = folder / "pid"
        self.group = ProcessGroup([sys.executable, "-c", PARENT, str(note), manner])
        deadline = time.monotonic() + 20
        while not note.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.child = psutil.Process(int(note.read_text()))

    def child_is_gone(self) -> bool:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if not self.child.is_running() or self.child.status() == psutil.STATUS_ZOMBIE:
                return True
            time.sleep(0.02)
        return False


@pytest.fixture
def families() -> Iterator[list[Family]]:
    started: list[Family] = []
    yield started
    for family in started:
        family.group.kill()


@pytest.mark.parametrize(("manner", "code"), [("polite", -15), ("deaf", -9)])
def test_a_group_is_ended_whether_it_listens_or_not(
    tmp_path: Path, families: list[Family], manner: str, code: int
) -> None:
    family = Family(tmp_path, manner)
    families.append(family)
    assert family.group.wait(0.05) is None

    assert family.group.end(grace_seconds=0.5) == code
    assert family.child_is_gone()


def test_what_outlived_its_leader_is_killed_too(tmp_path: Path, families: list[Family]) -> None:
    family = Family(tmp_path, "leave")
    families.append(family)
    assert family.group.wait(10) == 0
    assert family.child.is_running()

    assert family.group.kill() == 0
    assert family.child_is_gone()


def test_the_pipe_closes_when_the_group_is_killed_and_not_before() -> None:
    group = ProcessGroup([sys.executable, "-c", "import sys; sys.exit(len(sys.stdin.buffer.read()))"])
    assert group.wait(0.5) is None, "the child still reads: this process is alive"
    assert group.end(0.0) < 0


def test_ending_a_group_that_has_gone_does_nothing() -> None:
    group = ProcessGroup([sys.executable, "-c", "pass"])
    assert group.wait(20) == 0
    assert group.end(1.0) == 0
    assert group.kill() == 0


def test_a_group_has_a_session_of_its_own() -> None:
    group = ProcessGroup([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert os.getsid(group.pid) == group.pid != os.getsid(0)
    finally:
        group.kill()


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with exit code 0"), (3, "ended with exit code 3"), (-9, "was killed by SIGKILL"), (-99, "signal 99")],
)
def test_an_exit_is_told_in_words(code: int, words: str) -> None:
    assert words in describe_exit(code)


@pytest.mark.parametrize(("given", "seen"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_operator_threads_wait_without_a_core_unless_the_environment_says_otherwise(
    given: dict[str, str], seen: str
) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    program = f"import os, sys; sys.exit(os.environ['OMP_WAIT_POLICY'] != {seen!r})"
    group = ProcessGroup([sys.executable, "-c", program], plain | given)
    assert group.wait(20) == 0
    group.kill()
