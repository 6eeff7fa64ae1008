"""Two models from anywhere become models of one directory, for as long as they are compared."""

from pathlib import Path

import pytest

from headroom.commands.posting.compared_models import side_by_side
from headroom.errors import InvalidArgument


def make_model(folder: Path, content: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(content)
    (folder / "dense").mkdir()
    return folder


def test_folders_of_the_same_name_stay_apart_and_go_away_again(tmp_path: Path) -> None:
    one, other = make_model(tmp_path / "x" / "my tiny", "1"), make_model(tmp_path / "y" / "my tiny", "2")
    with side_by_side((str(one), str(other)), None, tmp_path / "data", remote=False) as (ids, models_dir):
        assert ids == ["a/my-tiny", "b/my-tiny"]
        assert models_dir is not None
        assert [(models_dir / id_ / "config.json").read_text() for id_ in ids] == ["1", "2"]
        assert [file.name for file in (models_dir / ids[0]).iterdir()] == ["config.json"]
    assert list((tmp_path / "data").iterdir()) == []
    assert (one / "config.json").read_text() == "1"


def test_a_folder_stands_beside_a_model_of_the_models_directory(tmp_path: Path) -> None:
    make_model(tmp_path / "models" / "acme" / "tiny", "1")
    sliced = make_model(tmp_path / "tiny-headroom", "2")
    arguments = ("acme/tiny", str(sliced))
    with side_by_side(arguments, tmp_path / "models", tmp_path, remote=False) as (ids, models_dir):
        assert models_dir is not None
        assert [(models_dir / id_ / "config.json").read_text() for id_ in ids] == ["1", "2"]


def test_ids_are_left_to_the_server(tmp_path: Path) -> None:
    with side_by_side(("acme/tiny", "acme/other"), None, tmp_path, remote=True) as (ids, _):
        assert ids == ["acme/tiny", "acme/other"]
    with (
        pytest.raises(InvalidArgument, match="neither a model id"),
        side_by_side(("acme/tiny", str(tmp_path / "none")), None, tmp_path, remote=False),
    ):
        pass
