"""Every command of docs/api.md, in order, against a server that compresses the page's tiny model meanwhile."""

import re
import shutil
from pathlib import Path

import pytest

from examples.stdlib_docstrings import write_jsonl
from service.models.safetensors_header import read_tensor_table
from tests.pages import blocks, run_script, serving
from tests.tiny_models import make_text, make_tiny_checkpoint

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("curl"), reason="the page's commands use curl"),
]
ENDS_BY_TIME = " || test $? -eq 28"  # of a stream without an end, after --max-time


def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path / "models/acme/tiny")
    write_jsonl([make_text(1200, seed) for seed in range(10)], tmp_path / "held-out.jsonl")
    (tmp_path / ".curlrc").write_text("silent\nshow-error\n")
    commands = [block.rstrip() + ENDS_BY_TIME * ("--max-time" in block) for block in blocks("docs/api.md", "sh")]
    script = "\n".join(commands)
    with serving(tmp_path, tmp_path / "models") as server:
        output = run_script(tmp_path, script.replace("http://127.0.0.1:8000", server), CURL_HOME=str(tmp_path))
    refused = re.findall(r'"code":"(\w+)"', output)  # there is no webhook, and what was deleted cannot be canceled
    assert refused == ["delivery_not_found", "job_not_found"]
    fetched = tmp_path / "model.safetensors"
    with fetched.open("rb") as file:  # its table accounts for every byte
        assert "transformer.wpe.weight" in read_tensor_table(file, fetched.name, fetched.stat().st_size)
