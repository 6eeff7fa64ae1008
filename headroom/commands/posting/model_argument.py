"""MODEL on the command line: an id, or the folder of a local model. It opens no model and asks no hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from headroom.errors import InvalidArgument

MODEL_ID_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")


@dataclass(frozen=True)
class ModelChoice:
    """The id to ask for, and the models directory that the embedded server needs for it (None: the default one)."""

    id: str
    models_dir: Path | None

    @property
    def name(self) -> str:
        return self.id.rsplit("/", 1)[-1]


def choose_model(argument: str, models_dir: Path | None, remote: bool) -> ModelChoice:
    """A folder DIR/<ns>/<name> becomes the id <ns>/<name> below the models directory DIR.

    `ns/name` is an id; it is also a folder if there is one and no models directory was named.
    """
    if is_model_id(argument):
        here = Path(argument)
        is_folder = models_dir is None and not remote and (here / "config.json").is_file()
        return _from_folder(here) if is_folder else ModelChoice(argument, models_dir)
    folder = Path(argument).expanduser()
    if remote:
        raise InvalidArgument(
            f"'{argument}' is no model id, and a server sees no folders of this machine; name a model as <ns>/<name>."
        )
    if not folder.is_dir():
        raise InvalidArgument(f"'{argument}' is neither a model id (<ns>/<name>) nor a folder.")
    if not (folder / "config.json").is_file():
        raise InvalidArgument(f"'{argument}' holds no config.json, so it is no model folder.")
    choice = _from_folder(folder)
    if models_dir is not None and models_dir.resolve() != choice.models_dir:
        raise InvalidArgument(
            f"'{argument}' is not of the form {models_dir}/<ns>/<name>; leave --models-dir out, or move it there."
        )
    return choice


def is_model_id(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and all(MODEL_ID_PART.fullmatch(part) for part in parts) and ".." not in text


def _from_folder(folder: Path) -> ModelChoice:
    *_, namespace, name = ("", *folder.resolve().parts)
    model_id = f"{namespace}/{name}"
    if len(folder.resolve().parts) < 3 or not is_model_id(model_id):
        raise InvalidArgument(
            f"The last two folders of '{folder.resolve()}' make no model id; "
            "put the model into a folder DIR/<ns>/<name> of letters, digits, '_', '-' and '.'."
        )
    return ModelChoice(model_id, folder.resolve().parent.parent)
