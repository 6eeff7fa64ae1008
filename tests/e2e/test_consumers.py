"""Everything that docs/consumers.md shows, run in a folder of its own against a server with one real checkpoint."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_models import make_text, make_tiny_checkpoint

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="the page's commands use curl and jq"),
]

PAGE = (Path(__file__).resolve().parents[2] / "docs/consumers.md").read_text(encoding="utf-8")
QUICK = ["--window", "32", "--calibration-tokens", "1024", "--evaluation-tokens", "2048"]
COMPRESS = ["compress", "acme/tiny", "--corpus", "corpus.txt", *QUICK, "--ratio", "0.25", "--max-drift", "9"]
# Before the first snippet, which imports headroom.
LOADED_WITHOUT = """
from transformers import AutoModelForCausalLM

try:
    AutoModelForCausalLM.from_pretrained("slim")
except RuntimeError as error:
    assert "mismatch" in str(error), error
else:
    raise AssertionError("it loads without headroom")
"""


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


def environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HEADROOM_", "HF_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    own = {"HEADROOM_HUB_ENDPOINT": "", "HEADROOM_THREADS": "1", "HF_HOME": str(folder / "home")}
    return clean | own | {"PATH": path, "HF_HUB_DISABLE_TELEMETRY": "1"}


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """What it printed, once it has ended well."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """`headroom serve` on a free port, with the one checkpoint that the page asks for."""
    make_tiny_checkpoint(tmp_path / "models/acme/tiny")
    (tmp_path / "corpus.txt").write_text(make_text())
    process = start(tmp_path, "headroom", "serve", "--port", "0", "--models-dir", "models", "--data-dir", "served")
    try:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"http://\S+", line) for line in process.stdout)))
        given = ("--publish", "acme/tiny-slim", "--export", "dense", "--export", "onnx", "--output", "python/slim")
        output_of(start(tmp_path, "headroom", *COMPRESS, *given, "--server", found[0]))
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_every_command_and_snippet_of_the_page_works(server: str, tmp_path: Path) -> None:
    """The snippets of Python in one process, each going on from the last; the shell's beside it, for time."""
    python = blocks("python").replace("dense = ", "assert headroom.kept_columns(model) == 16\ndense = ")
    checked = f"{LOADED_WITHOUT}\n{python}\nassert type(dense.lm_head).__name__ == 'Linear'"
    shell = blocks("sh").replace("http://127.0.0.1:8000", server)
    beside = start(tmp_path / "python", sys.executable, "-c", checked)
    try:
        output_of(start(tmp_path, "bash", "-c", f"set -euo pipefail\n{shell}"))
    finally:
        printed, _ = beside.communicate(timeout=300)
    assert beside.returncode == 0, printed
    assert "Stats(positions=" in printed
    for path in (tmp_path / "config.json", tmp_path / "python/slim/config.json"):  # by curl, by `headroom compress`
        assert path.read_bytes() == (tmp_path / "slim/config.json").read_bytes()
    assert (tmp_path / "original/model.safetensors").is_file()
