"""Run what a page of the documentation shows: its blocks, in a clean environment, in a folder of their own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HEADROOM_", "HF_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    own = {"HEADROOM_HUB_ENDPOINT": "", "HEADROOM_THREADS": "1", "HF_HOME": str(folder / "home")}
    return clean | own | {"PATH": path, "HF_HUB_DISABLE_TELEMETRY": "1"}


def start(folder: Path, *command: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """What it printed, once it has ended well."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def run_script(folder: Path, script: str, **variables: str) -> str:
    """The output of a shell script that stops at the first command that fails."""
    return output_of(start(folder, "bash", "-c", f"set -euo pipefail\n{script}", **variables))


@contextmanager
def serving(folder: Path, models: Path) -> Iterator[str]:
    """`headroom serve` on a free port, its data in `folder/served`; gives its address."""
    process = start(folder, "headroom", "serve", "--port", "0", "--models-dir", str(models), "--data-dir", "served")
    try:
        assert process.stdout is not None
        yield next(filter(None, (re.search(r"http://\S+", line) for line in process.stdout)))[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
