"""Keep a few programs running, and let none outlive this process. Knows nothing about what they do."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headroom.local import tether

POLL_SECONDS = 0.05
QUICK_DEATH_SECONDS = 10.0  # a program that lived longer than this had started well
MAX_DEATHS_AT_START = 2  # of a program that never has: most likely a setting is wrong, and somebody waits to be told
FIRST_PAUSE_SECONDS = 0.5  # before a dead program is started again; doubles with each quick death
LONGEST_PAUSE_SECONDS = 15.0  # a full disk may stay full for hours: what ran well is tried again for ever
READY_SECONDS = 30.0
MAX_LOG_BYTES = 10_000_000


class ProgramFailed(Exception):
    """A program does not start, or keeps dying."""


@dataclass(frozen=True)
class Program:
    """One command. `runs_once`: it has to end well before the next one starts; `is_ready`: it has to say so."""

    name: str
    command: list[str]
    stop_seconds: float = 5.0  # between TERM and KILL
    runs_once: bool = False
    is_ready: Callable[[], bool] | None = None


@dataclass
class Child:
    """A program's present process. A dead one is started again at `restart_at`."""

    program: Program
    process: subprocess.Popen[bytes]
    started_at: float = field(default_factory=time.monotonic)
    has_run_well: bool = False
    quick_deaths: int = 0
    restart_at: float | None = None


class Supervisor:
    """Starts programs in order and revives them, from one thread: tether.py binds them to the life of that thread.

    The first program serves the others, so it is stopped after them.
    """

    def __init__(self, programs: list[Program], environment: Mapping[str, str], logs_dir: Path) -> None:
        self._programs = programs
        self._environment = dict(environment)
        self._logs_dir = logs_dir
        self._children: list[Child] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._all_is_well = threading.Event()
        self.failure: str | None = None  # why it gave up; everything is being stopped then

    def start(self) -> None:
        """Return at once; watch `failure`."""
        self._logs_dir.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def mark_well(self) -> None:
        """The programs together do what they are for: from now on none of them is given up, whatever it dies of."""
        self._all_is_well.set()

    def stop(self) -> None:
        """End every program, and wait until they have ended."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            for program in self._programs:
                self._bring_up(program)
            while not self._stopping.wait(POLL_SECONDS * 4):
                for child in self._children:
                    self._revive(child)
        except (ProgramFailed, OSError) as error:
            self.failure = str(error)
        finally:
            self._stop_all()

    def _bring_up(self, program: Program) -> None:
        if self._stopping.is_set():
            return
        child = Child(program, self._spawn(program))
        if not program.runs_once:
            self._children.append(child)
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_up(child) and not self._stopping.wait(POLL_SECONDS):
            if time.monotonic() >= deadline:
                _end([child])
                raise ProgramFailed(f"the {program.name} was not ready after {READY_SECONDS:.0f} s{self._why(program)}")

    def _is_up(self, child: Child) -> bool:
        program, returncode = child.program, child.process.poll()
        if returncode is not None and (returncode != 0 or not program.runs_once):
            what = "failed" if program.runs_once else "did not start"
            raise ProgramFailed(f"the {program.name} {what}{self._why(program)}")
        if program.runs_once:
            return returncode == 0
        return program.is_ready is None or program.is_ready()

    def _revive(self, child: Child) -> None:
        now = time.monotonic()
        if child.restart_at is None:
            if child.process.poll() is not None:
                self._schedule(child, now)
        elif now >= child.restart_at:
            try:
                child.process, child.started_at, child.restart_at = self._spawn(child.program), now, None
            except OSError:  # no room for its log, or no memory for a process
                self._schedule(child, now)

    def _schedule(self, child: Child, now: float) -> None:
        """When a dead program starts again. ProgramFailed for one that has never run well."""
        was_quick = now - child.started_at < QUICK_DEATH_SECONDS or child.restart_at is not None
        child.has_run_well |= not was_quick or self._all_is_well.is_set()
        child.quick_deaths = child.quick_deaths + 1 if was_quick else 1
        if not child.has_run_well and child.quick_deaths >= MAX_DEATHS_AT_START:
            times = f"{child.quick_deaths} times in a row"
            raise ProgramFailed(f"the {child.program.name} ended {times}{self._why(child.program)}")
        doublings = min(child.quick_deaths - 1, 30)
        child.restart_at = now + min(FIRST_PAUSE_SECONDS * 2**doublings, LONGEST_PAUSE_SECONDS)

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        path = self._log_path(program)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *program.command]
        with path.open("ab") as log:
            return subprocess.Popen(
                tethered,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def _stop_all(self) -> None:
        _end(self._children[1:])
        _end(self._children[:1])

    def _log_path(self, program: Program) -> Path:
        return self._logs_dir / f"{program.name}.log"

    def _why(self, program: Program) -> str:
        """The last line of its log, and where to read the rest."""
        path = self._log_path(program)
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return f" (its log is {path}" + (f": {lines[-1].strip()[:300]})" if lines else ")")


def _end(children: list[Child]) -> None:
    """TERM to all of them at once, then KILL to the whole group of each."""
    for child in children:
        _signal(child, signal.SIGTERM, group=False)
    begun = time.monotonic()
    for child in children:
        try:
            child.process.wait(max(0.0, begun + child.program.stop_seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        _signal(child, signal.SIGKILL, group=True)
        child.process.wait()


def _signal(child: Child, number: signal.Signals, *, group: bool) -> None:
    try:
        if group:
            os.killpg(child.process.pid, number)
        else:
            child.process.send_signal(number)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left
