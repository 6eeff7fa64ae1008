"""What a person sees while a job runs: on a terminal, and in a log."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from headroom.contract.answers.job import JobView
from headroom.views.progress import BarDisplay, DownloadBar, LineDisplay, display_for
from tests.factories import job_told


def make_record(**fields: Any) -> JobView:
    base = {
        "id": "job_1",
        "kind": "compress",
        "status": "running",
        "phase": "encoding",
        "progress": 0.25,
        "model": {"id": "acme/tiny", "revision": None},
        "ratio": "auto",
        "method": "probability",
        "corpus": "corpus_1",
        "attempt": 1,
    }
    return JobView.read(job_told(**base | fields))


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_one_line_for_each_phase() -> None:
    console = Console(file=io.StringIO(), width=100)
    with LineDisplay(console) as display:
        display.update(make_record(status="queued", phase=None, progress=0.0))
        for percent in range(20, 30):
            display.update(make_record(progress=percent / 100))
        display.update(make_record(phase="sweeping", progress=0.6))
        display.update(make_record(status="succeeded", phase=None, progress=1.0))
    assert written(console).splitlines() == [
        "job_1 queued",
        "job_1 encoding 20%",
        "job_1 sweeping 60%",
        "job_1 succeeded",
    ]


def test_a_terminal_gets_a_bar_and_keeps_finished_phases() -> None:
    console = terminal()
    with BarDisplay(console) as display:
        display.update(make_record(phase_seconds={"fetching": 0.2}))
        display.update(make_record(phase="sweeping", progress=0.6, phase_seconds={"fetching": 0.2, "encoding": 61.0}))
    text = written(console)
    assert text.count("✓ fetching") == 1
    assert "✓ encoding    1 min 01 s" in text
    assert "60 %" in text


def test_a_second_attempt_is_told_and_starts_afresh() -> None:
    console = terminal()
    with BarDisplay(console) as display:
        display.update(make_record(phase_seconds={"fetching": 0.2}))
        display.update(make_record(attempt=2, phase_seconds={}))
        display.update(make_record(attempt=2, phase_seconds={"fetching": 0.1}))
    assert "attempt 2" in written(console)
    assert written(console).count("✓ fetching") == 2


def test_the_estimate_of_the_server_is_shown() -> None:
    console = terminal()
    with BarDisplay(console) as display:
        soon = datetime.now(UTC) + timedelta(seconds=90)
        display.update(make_record(estimated_finish=soon.isoformat()))
    assert "about 1 min" in written(console)


def test_the_display_follows_the_kind_of_console() -> None:
    assert isinstance(display_for(terminal()), BarDisplay)
    assert isinstance(display_for(Console(file=io.StringIO())), LineDisplay)


def test_a_download_writes_nothing_into_a_log() -> None:
    console = Console(file=io.StringIO())
    with DownloadBar(console, 100) as bar:
        bar(100)
    assert written(console) == ""
