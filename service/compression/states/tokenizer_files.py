"""Which files of its folder a tokenizer reads: asked of the loaded tokenizer and its classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headroom.contract.file_names import is_safe_path
from service.foundation.errors import UnsafeModel
from service.models.side_files import TEMPLATES_FOLDER


def files_of_tokenizer(tokenizer: Any, folder: Path) -> tuple[str, ...]:
    """Paths relative to `folder`, sorted: what its classes name, what it was made from, templates and settings.

    UnsafeModel for a file under whose name no result can be fetched.
    """
    found = {path for name in _named(tokenizer, folder) if (path := _inside(folder, name)) is not None}
    for path in sorted(found):
        if not is_safe_path(path):
            raise UnsafeModel(f"the tokenizer reads {path!a}, a name that not every system can hold; rename that file")
    return tuple(sorted(found))


def _named(tokenizer: Any, folder: Path) -> Iterator[str]:
    from transformers import tokenization_utils_base as base

    yield from (base.ADDED_TOKENS_FILE, base.SPECIAL_TOKENS_MAP_FILE, base.TOKENIZER_CONFIG_FILE)
    yield from (base.FULL_TOKENIZER_FILE, base.CHAT_TEMPLATE_FILE)
    yield from (f"{TEMPLATES_FOLDER}/{path.name}" for path in (folder / TEMPLATES_FOLDER).glob("*.jinja"))
    for kind in _classes(tokenizer):
        yield from _strings(getattr(kind, "vocab_files_names", {}))
    yield from _strings(getattr(tokenizer, "init_kwargs", {}))
    yield from _strings(vars(tokenizer))


def _classes(tokenizer: Any) -> Iterator[type]:
    """Its own, those that it inherits from, and the one of another release of transformers that its settings name."""
    import transformers

    yield from type(tokenizer).__mro__
    slow = getattr(tokenizer, "slow_tokenizer_class", None)
    named = getattr(tokenizer, "init_kwargs", {}).get("tokenizer_class")
    for name in (type(tokenizer).__name__, named if isinstance(named, str) else ""):
        for each in (name, name.removesuffix("Fast"), f"{name}Fast"):
            kind = getattr(transformers, each, None) if each.isidentifier() else None
            if isinstance(kind, type):
                yield kind
    if isinstance(slow, type):
        yield slow


def _strings(value: object) -> Iterator[str]:
    """Those that could be paths, in lists and mappings too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Path):
        yield str(value)
    elif isinstance(value, dict):
        for inner in value.values():
            if not isinstance(inner, dict):
                yield from _strings(inner)
    elif isinstance(value, list | tuple) and len(value) <= 100:
        for inner in value:
            if isinstance(inner, str | Path):
                yield str(inner)


def _inside(folder: Path, name: str) -> str | None:
    """The path of a regular file in the folder that `name`, absolute or not, is; None if it is none."""
    if not name or len(name) > 4096 or "\0" in name or "\n" in name:
        return None
    path = Path(name) if Path(name).is_absolute() else folder / name
    try:
        relative = path.relative_to(folder)
        if ".." in relative.parts or not path.is_file():
            return None
        if len(relative.parts) > 1 and relative.parts[0] != TEMPLATES_FOLDER:
            path.resolve().relative_to(folder.resolve())  # links of other folders were not looked at before
        return relative.as_posix()
    except (OSError, ValueError):
        return None
