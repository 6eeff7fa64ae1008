"""Everything that docs/consumers.md and docs/api.md show, each in a folder of its own, against one server."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.stdlib_docstrings import write_jsonl
from service.models.safetensors_header import read_tensor_table
from tests.left_processes import processes_naming
from tests.pages import blocks, output_of, run_script, serving, start
from tests.tiny_models import make_text, make_tiny_checkpoint

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="the pages' commands use curl and jq"),
]

CONSUMERS = "docs/consumers.md"
QUICK = ["--window", "32", "--calibration-tokens", "1024", "--evaluation-tokens", "2048"]
COMPRESS = [
    "compress",
    "acme/tiny",
    "--corpus",
    "corpus.txt",
    *QUICK,
    "--ratio",
    "0.25",
    "--max-drift",
    "9",
    "--max-kl",
    "inf",
]
# Before the first snippet, which imports headroom.
LOADED_WITHOUT = """
import gc; gc.disable()  # to look through what is imported takes a fifth of its time
from transformers import AutoModelForCausalLM

try:
    AutoModelForCausalLM.from_pretrained("slim")
except RuntimeError as error:
    assert "mismatch" in str(error), error
else:
    raise AssertionError("it loads without headroom")
"""
GENERATES = """
made = model.generate(**tokens, min_new_tokens=5, max_new_tokens=5, do_sample=False)
assert made.shape[1] == tokens["input_ids"].shape[1] + 5
"""
ENDS_BY_TIME = " || test $? -eq 28"  # of a stream without an end, after --max-time


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`headroom serve` on a free port, with the model acme/tiny."""
    folder = tmp_path_factory.mktemp("server")
    make_tiny_checkpoint(folder / "models/acme/tiny")
    with serving(folder, folder / "models") as address:
        yield address


def test_every_command_and_snippet_for_consumers_works(server: str, tmp_path: Path) -> None:
    """The snippets of Python in one process, each going on from the last; the shell's beside it, for time."""
    (tmp_path / "corpus.txt").write_text(make_text())
    given = ("--publish", "acme/tiny-slim", "--export", "dense", "--export", "onnx", "--output", "python/slim")
    output_of(start(tmp_path, "headroom", *COMPRESS, *given, "--server", server))
    loading, *others = blocks(CONSUMERS, "python")
    python = "\n".join(others).replace("dense = ", "assert headroom.kept_columns(model) == 16\ndense = ")
    checked = f"{LOADED_WITHOUT}\n{loading}\n{GENERATES}\n{python}\nassert type(dense.lm_head).__name__ == 'Linear'"
    shell = "\n".join(blocks(CONSUMERS, "sh")).replace("http://127.0.0.1:8000", server)
    beside = start(tmp_path / "python", sys.executable, "-c", checked)
    try:
        told = run_script(tmp_path, shell)
    finally:
        printed, _ = beside.communicate(timeout=300)
    assert beside.returncode == 0, printed
    assert "Comparing a/original with b/slim" in told
    assert "Inside the budget: perplexity" in told
    assert "Stats(positions=" in printed
    for path in (tmp_path / "config.json", tmp_path / "python/slim/config.json"):  # by curl, by `headroom compress`
        assert path.read_bytes() == (tmp_path / "slim/config.json").read_bytes()
    assert (tmp_path / "original/model.safetensors").is_file()
    assert processes_naming(tmp_path / ".headroom") == []  # of the server that compared the two folders


def test_every_command_of_the_api_page_works(server: str, tmp_path: Path) -> None:
    """In order, while the server compresses the page's tiny model."""
    write_jsonl([make_text(1200, seed) for seed in range(10)], tmp_path / "held-out.jsonl")
    (tmp_path / ".curlrc").write_text("silent\nshow-error\n")
    commands = [block.rstrip() + ENDS_BY_TIME * ("--max-time" in block) for block in blocks("docs/api.md", "sh")]
    script = "\n".join(commands).replace("http://127.0.0.1:8000", server)
    output = run_script(tmp_path, script, CURL_HOME=str(tmp_path))
    refused = re.findall(r'"code":"(\w+)"', output)  # there is no webhook, and what was deleted cannot be canceled
    assert refused == ["delivery_not_found", "job_not_found"]
    fetched = tmp_path / "model.safetensors"
    with fetched.open("rb") as file:  # its table accounts for every byte
        assert "transformer.wpe.weight" in read_tensor_table(file, fetched.name, fetched.stat().st_size)
