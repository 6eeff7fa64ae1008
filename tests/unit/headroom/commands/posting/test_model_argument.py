"""MODEL: an id, or a folder that becomes one."""

from pathlib import Path

import pytest

from headroom.commands.posting.model_argument import ModelChoice, choose_model
from headroom.errors import InvalidArgument


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_an_id_is_taken_as_it_is(tmp_path: Path) -> None:
    assert choose_model("acme/tiny", None, remote=False) == ModelChoice("acme/tiny", None)
    assert choose_model("acme/tiny", tmp_path, remote=False) == ModelChoice("acme/tiny", tmp_path)


def test_a_folder_becomes_an_id_below_its_grandparent(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "acme" / "tiny")
    assert choose_model(str(folder), None, remote=False) == ModelChoice("acme/tiny", tmp_path)


def test_a_short_relative_folder_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "acme" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert choose_model("acme/tiny", None, remote=False).models_dir == tmp_path
    assert choose_model("acme/tiny", None, remote=True).models_dir is None
    monkeypatch.chdir(tmp_path / "acme" / "tiny")
    assert choose_model(".", None, remote=False) == ModelChoice("acme/tiny", tmp_path)


def test_a_link_counts_as_what_it_points_to(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "acme" / "tiny")
    (tmp_path / "link").symlink_to(folder)
    assert choose_model(str(tmp_path / "link"), None, remote=False) == ModelChoice("acme/tiny", tmp_path)


@pytest.mark.parametrize("argument", ["no-such-folder", "../x/y/z", "a/b/c", "acme/..", ""])
def test_what_is_neither_id_nor_folder_is_refused(argument: str) -> None:
    with pytest.raises(InvalidArgument):
        choose_model(argument, None, remote=False)


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        choose_model(str(tmp_path), None, remote=False)


def test_a_folder_whose_names_make_no_id_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "my models" / "tiny")
    with pytest.raises(InvalidArgument, match="last two folders"):
        choose_model(str(folder), None, remote=False)


def test_a_folder_must_agree_with_the_models_directory(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "acme" / "tiny")
    assert choose_model(str(folder), tmp_path, remote=False).id == "acme/tiny"
    with pytest.raises(InvalidArgument, match="--models-dir"):
        choose_model(str(folder), tmp_path / "elsewhere", remote=False)


def test_a_remote_server_is_given_no_folder(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "acme" / "tiny")
    with pytest.raises(InvalidArgument, match="no folders of this machine"):
        choose_model(str(folder), None, remote=True)
