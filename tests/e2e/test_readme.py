"""The commands of the README's "Use it", run in order, in a folder of their own, on a free port.

Between them the corpus that the first one makes is shortened: that the jobs work is the point, not their figures. After
the first block nothing of the server that `headroom compress` started for its job may be left.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.left_processes import processes_naming

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = 4  # of 66: some 4,000 tokens
MAKES_THE_CORPUS = re.compile(r"^python examples/stdlib_docstrings\.py .* --output (\S+)$", re.MULTILINE)
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scripts_of(readme: str, folder: Path) -> tuple[str, str]:
    """Shell scripts of the first block and of all others; Python blocks become files that they run."""
    section = readme.split("## Use it", 1)[1].split("\n## ", 1)[0]
    parts = []
    for number, (language, code) in enumerate(BLOCK.findall(section)):
        if language == "python":
            (folder / f"block{number}.py").write_text(code, encoding="utf-8")
            code = f"python block{number}.py > block{number}.txt\n"
        parts.append(code)
    first, found = MAKES_THE_CORPUS.subn(
        rf"\g<0>\nhead -n {DOCUMENTS} \1 > shorter.jsonl\nmv shorter.jsonl \1", parts[0]
    )
    assert found == 1
    return first, "\n".join(parts[1:])


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="the README's commands use curl and jq")
def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    first, others = scripts_of((ROOT / "README.md").read_text(encoding="utf-8"), tmp_path)
    log = tmp_path / "output.txt"
    with log.open("w") as output:
        with running(first, tmp_path, output) as process:
            assert process.wait(timeout=400) == 0, log.read_text(encoding="utf-8")[-3000:]
        assert "Succeeded" in log.read_text(encoding="utf-8")
        assert processes_naming(tmp_path / ".headroom") == []

        assert re.search(r"127\.0\.0\.1:8000\b", others)
        port = free_port()
        others = others.replace(":8000", f":{port}").replace("--port 8000", f"--port {port}")
        try:
            with running(others, tmp_path, output) as process:
                code = process.wait(timeout=450)
        finally:
            wait_until_free(port)
    assert code == 0, log.read_text(encoding="utf-8")[-3000:]
    assert "Return a list of" in (tmp_path / "block1.txt").read_text(encoding="utf-8")
    assert (tmp_path / "slim" / "report.json").is_file()
    assert (tmp_path / "slim-again" / "model.safetensors").is_file()


@contextmanager
def running(script: str, folder: Path, output: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The script as a process; it, and the server that it leaves running, is ended with the block."""
    process = subprocess.Popen(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # of the first, nobody is left
            os.killpg(process.pid, signal.SIGTERM)


def wait_until_free(port: int, seconds: float = 30) -> None:
    """The server stops its children in order; nothing of it may outlive the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"something still listens on port {port}")
