"""Follows one job for a person: a bar on a terminal, a line for each phase elsewhere. It asks no server."""

import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from headroom.contract.answers.job import JobView
from headroom.views.figures import duration

PLAIN_SECONDS = 10.0  # between two progress lines of one phase


class Display(Protocol):
    """Shown while a job runs. A context manager, so that the terminal is put in order on every way out."""

    def update(self, job: JobView) -> None: ...

    def note(self, text: str) -> None:
        """One line that stays."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display_for(console: Console) -> Display:
    return BarDisplay(console) if console.is_terminal else LineDisplay(console)


class BarDisplay:
    """Finished phases stay as ticked lines; below them one bar for the whole job."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ticked: set[str] = set()
        self._attempt = 0
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=40),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", style="dim"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None, left="")

    def update(self, job: JobView) -> None:
        if job.attempt > self._attempt:
            if self._attempt:
                self.note(f"attempt {job.attempt}: the worker was lost, the job runs again")
            self._attempt = job.attempt
            self._ticked.clear()
        for phase, seconds in job.phase_seconds.items():
            if phase not in self._ticked:
                self._ticked.add(phase)
                self._console.print(Text.assemble(("  ✓ ", "green"), f"{phase:<12}", (duration(seconds), "dim")))
        label = job.phase if job.status == "running" and job.phase else job.status
        self._progress.update(
            self._task,
            description=label,
            total=1.0 if job.progress else None,
            completed=job.progress,
            left=_left(job),
        )

    def note(self, text: str) -> None:
        self._console.print(Text(text))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class LineDisplay:
    """Progress for logs: one line when the phase changes, and one in ten seconds while it lasts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: tuple[str, str | None, int] | None = None
        self._next = 0.0

    def update(self, job: JobView) -> None:
        state = (job.status, job.phase, job.attempt)
        if state == self._shown and time.monotonic() < self._next:
            return
        self._shown, self._next = state, time.monotonic() + PLAIN_SECONDS
        running = job.status == "running" and job.phase
        self.note(f"{job.id} {job.phase} {job.progress:.0%}" if running else f"{job.id} {job.status}")

    def note(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class DownloadBar:
    """Bytes arriving. Silent where the console is no terminal."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(f"{'downloading':<12}"),
            BarColumn(bar_width=40),
            DownloadColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("", total=total)

    def __call__(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def _left(job: JobView) -> str:
    """The server's guess, until its moment has come."""
    if job.estimated_finish is None or job.is_final:
        return ""
    seconds = (job.estimated_finish - datetime.now(UTC)).total_seconds()
    return f"about {duration(seconds)} left" if seconds > 1 else ""
