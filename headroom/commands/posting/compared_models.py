"""Two models on the command line, ids or folders, for an embedded server that has one models directory."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headroom.commands.posting.model_argument import choose_model


@contextmanager
def side_by_side(
    arguments: Sequence[str], models_dir: Path | None, data_dir: Path, *, remote: bool
) -> Iterator[tuple[list[str], Path | None]]:
    """Ids of the models, and the models directory that has them.

    Folders may lie anywhere: for the time of the block they are `a/<name>` and `b/<name>`, linked, not copied, where
    the file system allows it.
    """
    folders = [None if remote else _folder(argument, models_dir) for argument in arguments]
    if not any(folders):
        yield [choose_model(argument, models_dir, remote).id for argument in arguments], models_dir
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix="compared-") as gathered:
        ids = []
        for namespace, argument, folder in zip("ab", arguments, folders, strict=True):
            if folder is None:
                ids.append(choose_model(argument, None, remote).id)
                continue
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name).strip("-") or "model"
            _link_files(folder, Path(gathered) / namespace / name)
            ids.append(f"{namespace}/{name}")
        yield ids, Path(gathered)


def _folder(argument: str, models_dir: Path | None) -> Path | None:
    places = [Path(argument).expanduser()] + ([models_dir / argument] if models_dir else [])
    return next((place.resolve() for place in places if (place / "config.json").is_file()), None)


def _link_files(folder: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if not file.is_file():
            continue
        try:
            os.link(file.resolve(), target / file.name)
        except OSError:  # another file system
            shutil.copyfile(file, target / file.name)
