"""The command line from end to end: real processes, a real model (tiny, random), real files."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.left_processes import processes_naming
from tests.tiny_models import make_text, make_tiny_checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

ENVIRONMENT = {"HEADROOM_HUB_ENDPOINT": "", "HEADROOM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
QUICK = ["--window", "32", "--calibration-tokens", "1024", "--evaluation-tokens", "2048"]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model models/acme/tiny and the corpus corpus.txt."""
    folder = tmp_path_factory.mktemp("e2e")
    make_tiny_checkpoint(folder / "models/acme/tiny")
    (folder / "corpus.txt").write_text(make_text())
    return folder


def start(folder: Path, *arguments: str, **variables: str) -> psutil.Popen:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADROOM_")}
    return psutil.Popen(
        [sys.executable, "-m", "headroom.cli", *arguments],
        cwd=folder,
        env=clean | ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    process = start(folder, *arguments, **variables)
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """`headroom serve` on a free port; it has to stop cleanly too."""
    process = start(place, "serve", "--port", "0", "--models-dir", "models", "--data-dir", "served")
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, process.communicate()
    yield found[0]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def compress(place: Path, server: str, *options: str) -> tuple[int, str, str]:
    arguments = ("compress", "acme/tiny", "--corpus", "corpus.txt", *QUICK, *options)
    return run(place, *arguments, HEADROOM_SERVER=server)


@pytest.fixture(scope="module")
def success(place: Path, server: str) -> Json:
    """What `headroom compress --json` printed; the checkpoint is in the models folder, as acme/ok."""
    code, out, errors = compress(
        place, server, "--ratio", "0.5", "--max-drift", "9", "--max-kl", "inf", "--output", "models/acme/ok", "--json"
    )
    assert code == 0, errors
    printed: Json = json.loads(out)
    return printed


def test_a_checkpoint_arrives_whole(place: Path, success: Json) -> None:
    """That it loads and generates in a clean process is docs/consumers.md's, and test_pages.py's."""
    made = place / "models/acme/ok"
    manifest = json.loads((made / "headroom.json").read_bytes())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((made / name).read_bytes()).hexdigest() == digest
    assert set(success["files"]) == {*manifest["files"], "headroom.json"}
    assert json.loads((made / "report.json").read_bytes())["curve"] == success["report"]["curve"]


def test_a_drift_over_the_budget_is_rejected_with_its_table(place: Path, server: str) -> None:
    code, out, errors = compress(place, server, "--ratio", "0.5", "--kl-budget", "1e-9", "--output", "rejected")
    assert code == 3, errors
    assert "✗" in out
    assert "Rejected: at ratio 0.5 the KL divergence is" in out
    assert not (place / "rejected").exists()


def test_a_corpus_too_short_for_two_windows_is_bad_input(place: Path, server: str) -> None:
    (place / "short.txt").write_text("A few words.")
    code, out, errors = run(
        *(place, "compress", "acme/tiny", "--corpus", "short.txt", "--ratio", "0.5", "--output", "short", "--json"),
        HEADROOM_SERVER=server,
    )
    assert code == 2, errors
    assert "error [corpus_too_short]: " in errors
    assert json.loads(out)["error"]["code"] == "corpus_too_short"
    assert not (place / "short").exists()


def test_a_corpus_that_is_no_text_is_bad_input(place: Path, server: str) -> None:
    (place / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    code, _, errors = run(place, "compress", "acme/tiny", "--corpus", "bytes.txt", HEADROOM_SERVER=server)
    assert code == 2
    assert errors.splitlines()[-1].startswith("error [corpus_not_text]: ")


def test_jobs_of_the_server_are_shown_and_fetched_again(place: Path, server: str, success: Json) -> None:
    job_id = success["id"]
    listed = json.loads(run(place, "jobs", "--status", "succeeded", "--json", HEADROOM_SERVER=server)[1])["data"]
    assert [job["id"] for job in listed] == [job_id]
    assert "▶" in run(place, "show", job_id, HEADROOM_SERVER=server)[1]
    assert run(place, "cancel", job_id, HEADROOM_SERVER=server)[0] == 1
    assert run(place, "download", job_id, "--output", "fetched", HEADROOM_SERVER=server)[0] == 0
    for path in (place / "models/acme/ok").iterdir():
        assert (place / "fetched" / path.name).read_bytes() == path.read_bytes()


def test_two_checkpoints_are_compared(place: Path, server: str, success: Json) -> None:
    """As models of a server; that they may lie in any folders is docs/consumers.md's, and test_pages.py's."""
    arguments = ("compare", "acme/tiny", "acme/ok", "--corpus", "corpus.txt", *QUICK)
    code, out, errors = run(place, *arguments, "--max-drift", "9", "--max-kl", "1e-9", "--json", HEADROOM_SERVER=server)
    assert code == 3, errors
    found, stored = json.loads(out)["report"], success["report"]["stored"]
    assert abs(found["bands"][0]["perplexity_drift"] - stored["perplexity_drift"]) < 1e-4
    assert found["other"]["kept_columns"] == success["result"]["kept_columns"]


def test_an_interrupt_cancels_the_job_and_leaves_no_process(place: Path) -> None:
    (place / "long.txt").write_text(make_text(300_000))
    command = ["compress", "models/acme/tiny", "--corpus", "long.txt", "--ratio", "0.5", "--data-dir", "stopped"]
    command += ["--window", "32", "--calibration-tokens", "100000", "--evaluation-tokens", "200000"]
    process = start(place, *command, HEADROOM_HEARTBEAT_SECONDS="0.5")
    assert "Compressing acme/tiny" in process.stderr.readline(), process.communicate()
    busy = start(place, *command)  # its server is refused while the other's loads torch
    errors = busy.communicate(timeout=60)[1]
    assert (busy.returncode, "Another server uses" in errors) == (1, True)
    line = ""
    while "encoding" not in line:
        line = process.stderr.readline()
        assert line, "it ended early"
    children = process.children(recursive=True)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert re.search(r"error \[interrupted\]: job_\w+ is canceled\.", errors)
    assert out == ""
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert processes_naming(place / "stopped") == []
