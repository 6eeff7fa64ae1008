"""The command as a script meets it: exit codes, one line of error, one object of JSON, a quick start."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headroom import cli
from headroom.commands.posting import following


def test_without_arguments_it_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    assert "compress" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_exists_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: headroom {name}")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nonsense"], "usage"),
        (["compress", "acme/tiny"], "usage"),
        (["compress", "acme/tiny", "--corpus", "x", "--ratio", "much"], "usage"),
        (["compress", "acme/tiny", "--corpus", "x", "--label", "novalue"], "usage"),
        (["compress", "acme/tiny", "--corpus", "no-such-file"], "invalid_argument"),
        (["compress", "no-such-model", "--corpus", "x"], "invalid_argument"),
        (["jobs", "--server", "not a url"], "invalid_argument"),
        (["serve", "--port", "65536"], "usage"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error [{code}]: ")
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_no_server_is_told_with_exit_code_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["jobs", "--server", "http://127.0.0.1:9"]) == 1
    assert "error [server_unreachable]: No server answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_under_json_a_failure_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", "../etc", "--json"]) in (1, 2)
    output = capsys.readouterr()
    assert json.loads(output.out)["error"]["code"] in ("invalid_argument", "server_unreachable")
    assert output.err.startswith("error [")


def test_a_defect_shows_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "no_such_module", ("operating", ""))
    assert cli.run(["no_such_module"]) == 1
    assert capsys.readouterr().err.startswith("error [internal_error]: ModuleNotFoundError")


def test_help_loads_neither_torch_nor_a_http_client() -> None:
    script = (
        "import sys; from headroom import cli; cli.run(['--help']);"
        "loaded = {'torch', 'transformers', 'httpx', 'rich'} & set(sys.modules); sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_compress_loads_no_torch() -> None:
    script = (
        "import sys; from headroom import cli; cli.run(['compress', '--help']);"
        "loaded = {'torch', 'transformers', 'numpy'} & set(sys.modules); sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_shell_completes_the_names_of_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_HEADROOM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "headroom hea")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit) as ended:
        cli.run([])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "plain,health\n"


def test_every_exit_code_is_documented() -> None:
    documented = {
        int(code)
        for code in re.findall(
            r"^\| (\d+) \|", (Path(__file__).parents[3] / "docs/command-line.md").read_text(), re.MULTILINE
        )
    }
    assert documented == {0, 1, cli.BAD_INPUT, following.REJECTED, following.NOT_WORTH_IT, cli.INTERRUPTED}
