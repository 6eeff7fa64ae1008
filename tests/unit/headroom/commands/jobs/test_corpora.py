import json
from pathlib import Path

import pytest

from headroom.cli import run


def test_a_text_is_uploaded_listed_and_deleted(server: str, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["corpora", "--server", server, "--upload", str(corpus), "--json"]) == 0
    (uploaded,) = json.loads(capsys.readouterr().out)["data"]
    assert run(["corpora", "--server", server]) == 0
    assert uploaded["id"] in capsys.readouterr().out
    assert run(["corpora", "--server", server, "--delete", uploaded["id"]]) == 0
    assert capsys.readouterr().out == "No corpora.\n"


def test_what_is_no_id_is_bad_input(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["corpora", "--server", server, "--delete", "../jobs"]) == 2
    assert "is no id of a corpus" in capsys.readouterr().err
