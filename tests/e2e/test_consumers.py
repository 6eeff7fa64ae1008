"""Everything that docs/consumers.md shows, run in a folder of its own against a server with one real checkpoint."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import blocks, output_of, run_script, serving, start
from tests.tiny_models import make_text, make_tiny_checkpoint

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="the page's commands use curl and jq"),
]

PAGE = "docs/consumers.md"
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
from transformers import AutoModelForCausalLM

try:
    AutoModelForCausalLM.from_pretrained("slim")
except RuntimeError as error:
    assert "mismatch" in str(error), error
else:
    raise AssertionError("it loads without headroom")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """`headroom serve` on a free port, with the one checkpoint that the page asks for."""
    make_tiny_checkpoint(tmp_path / "models/acme/tiny")
    (tmp_path / "corpus.txt").write_text(make_text())
    with serving(tmp_path, tmp_path / "models") as address:
        given = ("--publish", "acme/tiny-slim", "--export", "dense", "--export", "onnx", "--output", "python/slim")
        output_of(start(tmp_path, "headroom", *COMPRESS, *given, "--server", address))
        yield address


def test_every_command_and_snippet_of_the_page_works(server: str, tmp_path: Path) -> None:
    """The snippets of Python in one process, each going on from the last; the shell's beside it, for time."""
    python = "\n".join(blocks(PAGE, "python")).replace(
        "dense = ", "assert headroom.kept_columns(model) == 16\ndense = "
    )
    checked = f"{LOADED_WITHOUT}\n{python}\nassert type(dense.lm_head).__name__ == 'Linear'"
    shell = "\n".join(blocks(PAGE, "sh")).replace("http://127.0.0.1:8000", server)
    beside = start(tmp_path / "python", sys.executable, "-c", checked)
    try:
        run_script(tmp_path, shell)
    finally:
        printed, _ = beside.communicate(timeout=300)
    assert beside.returncode == 0, printed
    assert "Stats(positions=" in printed
    for path in (tmp_path / "config.json", tmp_path / "python/slim/config.json"):  # by curl, by `headroom compress`
        assert path.read_bytes() == (tmp_path / "slim/config.json").read_bytes()
    assert (tmp_path / "original/model.safetensors").is_file()
