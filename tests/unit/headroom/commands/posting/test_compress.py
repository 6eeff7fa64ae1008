"""What `headroom compress` checks before it starts anything, and what it leaves in the output folder."""

import json
from pathlib import Path

import click
import pytest

from headroom.commands.posting.compress import check_output, command, read_budget, settings_from
from headroom.commands.posting.corpus_argument import read_evaluations
from headroom.commands.posting.following import listed_files, remove_leftovers
from headroom.contract.posted import Evaluation, compress_body
from headroom.errors import InvalidArgument


def test_a_new_or_empty_folder_may_be_written(tmp_path: Path) -> None:
    check_output(tmp_path / "new")
    check_output(tmp_path)


def test_an_earlier_output_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "headroom.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    check_output(tmp_path)


def test_a_folder_of_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InvalidArgument, match="other files"):
        check_output(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InvalidArgument, match="is a file"):
        check_output(tmp_path / "out")


def test_only_listed_files_of_the_earlier_output_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("config.json", "model-00001-of-00002.safetensors", "notes.txt"):
        (folder / name).write_text(name)
    (tmp_path / "outside.txt").write_text("mine")
    earlier = ["config.json", "model-00001-of-00002.safetensors", "../outside.txt", "gone.txt"]
    remove_leftovers(folder, earlier, [folder / "config.json"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "notes.txt"]
    assert (tmp_path / "outside.txt").exists()


def test_a_damaged_list_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "headroom.json").write_text("[1")
    assert listed_files(tmp_path) == []
    (tmp_path / "headroom.json").write_text(json.dumps({"files": {"a": "0", "b": "1"}}))
    assert listed_files(tmp_path) == ["a", "b"]


def test_files_of_further_revisions_are_of_the_earlier_output_too(tmp_path: Path) -> None:
    point = tmp_path / "revisions/k8"
    point.mkdir(parents=True)
    (tmp_path / "headroom.json").write_text(json.dumps({"files": {"a": "0"}}))
    (point / "headroom.json").write_text(json.dumps({"files": {"b": "1"}}))
    assert listed_files(tmp_path) == ["a", "revisions/k8/headroom.json", "revisions/k8/b"]


def test_further_revisions_are_an_option_of_the_job() -> None:
    context = command.make_context(
        "compress", ["a/b", "--corpus", "c", "--publish-ratio", "0.1", "--publish-ratio", "0.5"]
    )
    settings = settings_from(context.params)
    assert compress_body("a/b", "c", settings)["options"] == {"publish_ratios": (0.1, 0.5)}


def test_a_budget_is_a_name_and_a_number() -> None:
    context, option = click.Context(command), click.Option(["--budget"])
    assert read_budget(context, option, "head_bytes=0.25") == {"head_bytes": 0.25}
    assert read_budget(context, option, None) is None
    for wrong in ("0.25", "drift=", "drift=much"):
        with pytest.raises(click.BadParameter, match="of the form read_bytes"):
            read_budget(context, option, wrong)


def test_further_texts_are_read_with_and_without_a_budget() -> None:
    given = ("prose=a.txt", "code=b.txt:0.02", "odd=c:d.txt")
    expected = [Evaluation("prose", "a.txt"), Evaluation("code", "b.txt", 0.02), Evaluation("odd", "c:d.txt")]
    context, option = click.Context(command), click.Option(["--evaluate"])
    assert list(read_evaluations(context, option, given)) == expected
    for wrong in ("prose", "=a.txt", "prose="):
        with pytest.raises(click.BadParameter, match="NAME=FILE"):
            read_evaluations(context, option, (wrong,))
