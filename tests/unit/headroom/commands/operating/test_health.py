import json

import pytest

from api.routes import health
from headroom.cli import run


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MIN_FREE_BYTES", 1)


def test_a_ready_server_is_told_part_by_part(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["health", "--server", server]) == 0
    said = capsys.readouterr().out
    assert "database" in said
    assert "the server is open" in said


def test_a_server_that_could_run_no_job_gives_exit_code_1(
    server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MIN_FREE_BYTES", 10**18)
    assert run(["health", "--server", server, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["checks"]["disk"]["ok"] is False
