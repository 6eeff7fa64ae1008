"""The demo corpus: real text, the same every time, and never the text the example model was trained on."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from examples import stdlib_docstrings
from examples.stdlib_docstrings import corpus, docstrings, main, part_of, stdlib_modules, write_jsonl

FILES = {
    "argparse.py": '"""Parse options."""\n\ndef parse():\n    """Shared words."""\n',
    "json/__init__.py": '"""Read JSON.\n\n    Indented once.\n    """\n',
    "json/decoder.py": 'class Decoder:\n    """Decode."""\n    def run(self):\n        """Run it."""\n',
    "datetime.py": '"""Dates … and times."""\n\ndef now():\n    """Shared words."""\n',
    "broken.py": "def (:\n",
    "test/test_json.py": '"""Not part of the library."""\n',
    "site-packages/other.py": '"""Somebody else\'s text."""\n',
    "pydoc_data/topics.py": "topics = {'if': 'The if statement.\\n', 'else': 'The if statement.\\n'}\n",
}


def written(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name], encoding="utf-8")
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A tiny standard library: modules of both parts, and things to skip."""
    return written(tmp_path / "library", FILES)


def test_this_python_s_parts_are_disjoint_and_the_held_out_one_is_not_empty() -> None:
    parts = corpus()
    assert sum(len(text) for text in parts["held-out"]) > 100_000
    assert set(parts["held-out"]).isdisjoint(parts["train"])


def test_the_order_does_not_depend_on_the_file_system(library: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other", reversed(FILES))
    assert corpus(library) == corpus(other)


def test_all_modules_of_a_real_package_are_in_one_part() -> None:
    modules = stdlib_modules(stdlib_docstrings.stdlib_folder())
    parts = {module.part for module in modules if module.name.split(".")[0] == "asyncio"}
    assert parts == {"held-out"}


@pytest.mark.parametrize("moved", ["_pydatetime", "datetime.extra", "_datetime"])
def test_a_module_that_moved_between_versions_stays_in_its_part(moved: str) -> None:
    assert part_of(moved) == part_of("datetime") == "held-out"


def test_a_docstring_in_both_parts_stays_in_the_train_part(library: Path) -> None:
    assert any("Shared words." in text for text in corpus(library)["train"])
    assert corpus(library)["held-out"] == ["Dates … and times."]


def test_a_document_is_a_module_and_modules_come_in_the_order_of_their_names(library: Path) -> None:
    expected = ["Parse options.\n\nShared words.", "Read JSON.\n\nIndented once.", "Decode.\n\nRun it."]
    assert corpus(library)["train"] == expected


def test_tests_installed_packages_and_files_that_do_not_parse_are_skipped(
    library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [module.name for module in stdlib_modules(library)]
    assert names == ["argparse", "broken", "datetime", "json", "json.decoder"]
    corpus(library)
    assert "skipped broken" in caplog.text


def test_docstrings_come_in_the_order_of_the_file() -> None:
    source = '"""First."""\nclass A:\n  "Second."\n  def f(self):\n    "Third."\n\ndef g():\n  "Fourth."\n'
    assert list(docstrings(source)) == ["First.", "Second.", "Third.", "Fourth."]


def test_a_docstring_that_utf_8_cannot_hold_is_left_out() -> None:
    assert list(docstrings('"""Fine."""\ndef f():\n    "A lone surrogate: \\ud800"\n')) == ["Fine."]


def test_help_topics_are_read_once_each_and_may_be_missing(library: Path, tmp_path: Path) -> None:
    assert stdlib_docstrings.help_topics(library) == ["The if statement."]
    assert stdlib_docstrings.help_topics(tmp_path / "nowhere") == []


def test_training_sources_hold_no_held_out_module(library: Path) -> None:
    sources = stdlib_docstrings.training_sources(library)
    assert any("Parse options." in source for source in sources)
    assert not any("Dates" in source for source in sources)


def test_the_command_writes_valid_utf_8_lines_of_json(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdlib_docstrings, "stdlib_folder", lambda: library)
    output = tmp_path / "folder" / "corpus.jsonl"
    main(["--part", "held-out", "--output", str(output)])
    assert output.read_bytes().decode("utf-8") == '{"text": "Dates … and times."}\n'
    assert list(output.parent.iterdir()) == [output]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    output = tmp_path / "corpus.jsonl"
    write_jsonl(["old"], output)
    with pytest.raises(UnicodeEncodeError):
        write_jsonl(["new", "\ud800"], output)
    assert json.loads(output.read_text(encoding="utf-8")) == {"text": "old"}
    assert list(tmp_path.iterdir()) == [output]
