"""The commands of the README's "Use it", run in order, in a folder of their own, on a free port.

Between them the corpus that the first one makes is shortened: that the jobs work is the point, not their figures.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = 12  # of 66: some 14,000 tokens
MAKES_THE_CORPUS = re.compile(r"^python examples/stdlib_docstrings\.py .* --output (\S+)$", re.MULTILINE)
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def script_of(readme: str, folder: Path) -> str:
    """One shell script of every block; Python blocks become files that it runs."""
    section = readme.split("## Use it", 1)[1].split("\n## ", 1)[0]
    lines = ["set -euo pipefail"]
    for number, (language, code) in enumerate(BLOCK.findall(section)):
        if language == "python":
            (folder / f"block{number}.py").write_text(code, encoding="utf-8")
            code = f"python block{number}.py > block{number}.txt\n"
        lines.append(code)
    script, found = MAKES_THE_CORPUS.subn(
        rf"\g<0>\nhead -n {DOCUMENTS} \1 > shorter.jsonl\nmv shorter.jsonl \1", "\n".join(lines)
    )
    assert found == 1
    return script.replace(":8000", f":{free_port()}")


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="the README's commands use curl and jq")
def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = script_of((ROOT / "README.md").read_text(encoding="utf-8"), tmp_path)
    port = re.search(r"127\.0\.0\.1:(\d+)", script)
    assert port is not None
    script = script.replace("--port 8000", f"--port {port[1]}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = tmp_path / "output.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=850)
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the server that the script leaves running
            wait_until_free(int(port[1]))
    assert code == 0, log.read_text(encoding="utf-8")[-3000:]
    assert "Return a list of" in (tmp_path / "block1.txt").read_text(encoding="utf-8")
    assert (tmp_path / "slim" / "report.json").is_file()
    assert (tmp_path / "slim-again" / "model.safetensors").is_file()


def wait_until_free(port: int, seconds: float = 30) -> None:
    """The server stops its children in order; nothing of it may outlive the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"something still listens on port {port}")
