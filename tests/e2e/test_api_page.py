"""Every command of docs/api.md, in order, against a server that compresses a small trained model meanwhile."""

import re
import shutil
from pathlib import Path

import pytest

from examples.stdlib_docstrings import corpus, write_jsonl
from tests.pages import ROOT, blocks, run_script, serving

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("curl"), reason="the page's commands use curl"),
]
MODEL = "headroom/stdlib-gpt2-4m"


ENDS_BY_TIME = " || test $? -eq 28"  # of a stream without an end, after --max-time


def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    write_jsonl(corpus()["held-out"][:10], tmp_path / "held-out.jsonl")
    (tmp_path / ".curlrc").write_text("silent\nshow-error\n")
    commands = [block.rstrip() + ENDS_BY_TIME * ("--max-time" in block) for block in blocks("docs/api.md", "sh")]
    script = "\n".join(commands).replace("MODEL=acme/tiny", f"MODEL={MODEL}")
    with serving(tmp_path, ROOT / "examples/models") as server:
        output = run_script(tmp_path, script.replace("http://127.0.0.1:8000", server), CURL_HOME=str(tmp_path))
    refused = re.findall(r'"code":"(\w+)"', output)  # there is no webhook, and what was deleted cannot be canceled
    assert refused == ["delivery_not_found", "job_not_found"]
    assert (tmp_path / "model.safetensors").stat().st_size > 7_000_000
