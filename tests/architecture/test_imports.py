"""The API never loads a tensor library, whatever import-linter can or cannot see."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

BUILD_THE_APP = """
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi.testclient import TestClient

import api.main
from service.foundation.settings import Settings

with TemporaryDirectory() as folder:
    settings = Settings(data_dir=Path(folder), broker_url="redis://127.0.0.1:9/0", hub_endpoint="http://127.0.0.1:9")
    with TestClient(api.main.build_app(settings), base_url="http://localhost") as client:
        for path in ("/livez", "/readyz", "/openapi.json", "/v1/models"):
            client.get(path)
        body = {"model": "acme/tiny", "corpus": {"text": "a b"}}
        assert client.post("/v1/jobs?validate_only=true", json=body).json()["code"] == "hub_unavailable"
tensors = {"torch", "transformers", "numpy", "safetensors", "service.compression"}
sys.exit(" ".join(sorted(tensors & set(sys.modules))) or 0)
"""


LOADED_BY_THE_SWEEPER = """
import sys

import workers.sweeper

heavy = {"alembic", "celery", "fastapi", "kombu", "numpy", "redis", "torch", "transformers", "uvicorn"}
sys.exit(" ".join(sorted(heavy & set(sys.modules))) or 0)
"""


def run(*arguments: str, program: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_fresh_interpreter_that_serves_the_api_has_no_tensors() -> None:
    result = run("-c", BUILD_THE_APP)
    assert result.returncode == 0, result.stderr


def test_a_sweeper_loads_what_sends_messages_only_when_there_is_one() -> None:
    result = run("-c", LOADED_BY_THE_SWEEPER)
    assert result.returncode == 0, result.stderr


def test_importing_the_main_module_does_nothing_but_define(tmp_path: Path) -> None:
    result = run("-c", f"import os; os.chdir({str(tmp_path)!r}); import api.main")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_import_contracts_hold() -> None:
    result = run("--no-cache", program=str(Path(sys.executable).with_name("lint-imports")))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout
