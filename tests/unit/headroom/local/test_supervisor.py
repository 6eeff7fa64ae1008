"""Programs are kept running while they can run, and none outlives the supervisor. The programs are real."""

import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from headroom.local import supervisor
from headroom.local.supervisor import Program, Supervisor

pytestmark = pytest.mark.processes

SLEEPER = [sys.executable, "-c", "import time; time.sleep(300)"]
Make = Callable[..., Supervisor]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Supervisor] = []

    def build(*programs: Program) -> Supervisor:
        made.append(Supervisor(list(programs), os.environ, tmp_path / "logs"))
        made[-1].start()
        return made[-1]

    yield build
    for each in made:
        each.stop()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def running(program: Program) -> list[psutil.Process]:
    """Our own children that run the command of `program` (and not the tether before it)."""
    found = []
    for child in psutil.Process().children():
        try:
            if child.cmdline() == program.command:
                found.append(child)
        except psutil.Error:
            continue
    return found


def python(name: str, code: str, *arguments: str, **options: bool) -> Program:
    return Program(name, [sys.executable, "-c", textwrap.dedent(code), *arguments], stop_seconds=1.0, **options)  # type: ignore[arg-type]


def test_a_program_that_dies_is_started_again(make: Make) -> None:
    program = Program("worker", SLEEPER)
    make(program)
    until(lambda: len(running(program)) == 1)
    first = running(program)[0]

    first.kill()

    until(lambda: [process.pid for process in running(program)] not in ([], [first.pid]))


def test_a_program_that_keeps_dying_ends_everything_with_its_last_words(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    steady = Program("broker", SLEEPER)
    made = make(steady, python("worker", "import time; time.sleep(0.2); raise SystemExit('no such queue')"))

    until(lambda: made.failure is not None)

    assert made.failure is not None
    assert "worker" in made.failure
    assert "no such queue" in made.failure
    assert "worker.log" in made.failure
    until(lambda: running(steady) == [])


def test_a_program_that_ran_well_is_started_again_for_as_long_as_it_keeps_dying(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_SECONDS", 0.02)
    full = tmp_path / "full"
    code = """
        import pathlib, sys, time
        open(sys.argv[2], "a").write("x")
        while not pathlib.Path(sys.argv[1]).exists():
            time.sleep(0.01)
        raise SystemExit("no space left")
    """
    starts = tmp_path / "starts"
    worker = python("worker", code, str(full), str(starts))
    steady = Program("broker", SLEEPER)
    made = make(steady, worker)
    until(starts.exists)
    made.mark_well()

    full.touch()
    until(lambda: starts.stat().st_size >= 8)
    assert made.failure is None
    full.unlink()

    until(lambda: len(running(worker)) == 1)
    assert len(running(steady)) == 1
    assert made.failure is None


def test_a_program_whose_log_cannot_be_opened_is_tried_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.05)
    program = Program("worker", SLEEPER)
    made = make(program)
    until(lambda: len(running(program)) == 1)
    made.mark_well()
    log = tmp_path / "logs" / "worker.log"
    log.unlink()
    log.mkdir()  # as little to be written to as a file on a full disk

    running(program)[0].kill()
    time.sleep(1.0)
    assert running(program) == []
    assert made.failure is None
    log.rmdir()

    until(lambda: len(running(program)) == 1)


def test_the_next_program_waits_for_the_one_before(make: Make, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    broker = Program("broker", SLEEPER, is_ready=mark.exists)
    migration = python("migration", "import sys; open(sys.argv[1], 'w')", str(tmp_path / "migrated"), runs_once=True)
    api = python("api", "import sys, time; assert open(sys.argv[1]); time.sleep(300)", str(tmp_path / "migrated"))
    made = make(broker, migration, api)
    until(lambda: running(broker) != [])
    time.sleep(0.3)
    assert running(api) == []

    mark.touch()

    until(lambda: running(api) != [])
    assert made.failure is None


def test_a_migration_that_fails_starts_nothing_after_it(make: Make) -> None:
    api = Program("api", SLEEPER)
    made = make(python("migration", "raise SystemExit('schema is newer')", runs_once=True), api)

    until(lambda: made.failure is not None)

    assert "schema is newer" in (made.failure or "")
    assert running(api) == []


def test_a_command_that_does_not_exist_is_a_failure_and_not_a_crash(make: Make) -> None:
    made = make(Program("broker", ["/no/such/program"], is_ready=lambda: False))

    until(lambda: made.failure is not None)

    assert "broker did not start" in (made.failure or "")


def test_stopping_ends_the_deaf_too_and_the_first_program_last(make: Make, tmp_path: Path) -> None:
    order = tmp_path / "order"
    first = python("broker", _NOTING, "broker", str(order))
    second = python("api", _NOTING, "api", str(order))
    is_deaf = tmp_path / "deaf"
    deaf = python("worker", _DEAF, str(is_deaf))
    made = make(first, second, deaf)
    until(lambda: order.exists() and len(order.read_text().split()) == 2 and is_deaf.exists())
    order.write_text("")

    made.stop()

    assert order.read_text().split() == ["api", "broker"]
    assert running(first) + running(second) + running(deaf) == []


_DEAF = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[1], "w")
    time.sleep(300)
"""

_NOTING = """
    import signal, sys, time
    def note(*_):
        with open(sys.argv[2], "a") as file:
            file.write(sys.argv[1] + "\\n")
    def stop(*_):
        note()
        sys.exit()
    signal.signal(signal.SIGTERM, stop)
    note()
    time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_programs_die_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    code = """
        import os, sys, time
        from pathlib import Path
        from headroom.local.supervisor import Program, Supervisor
        supervisor = Supervisor([Program("worker", [sys.executable, "-c", sys.argv[2]])], os.environ, Path(sys.argv[1]))
        supervisor.start()
        time.sleep(300)
    """
    worker = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    parent = psutil.Popen([sys.executable, "-c", textwrap.dedent(code), str(tmp_path), worker])
    log = tmp_path / "worker.log"
    until(lambda: log.exists() and log.read_text().endswith("\n"))
    child = psutil.Process(int(log.read_text()))

    parent.send_signal(signal.SIGKILL)
    parent.wait()

    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
