"""Real English text that every Python installation already has: the docstrings of its standard library.

A demo of a language-model service needs text to calibrate and measure on, and nobody should have to download
it or ship other people's documents for that. This module reads the ``.py`` files of the standard library that
runs it (with ``ast``; nothing is imported or executed) and yields one document per module: its docstrings,
joined by blank lines.

Modules are split in two by a stable hash of their name. The example model in ``models/`` was trained on the
``train`` part only, so the ``held-out`` part is text that it has never seen, on any Python version.

    python examples/stdlib_docstrings.py --part held-out --output corpus.jsonl
"""

import argparse
import ast
import hashlib
import json
import logging
import os
import sysconfig
import tempfile
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Part = Literal["train", "held-out"]
Owner = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

HELD_OUT_PERCENT = 12
# Chosen once, before any training, so that the held-out part is varied and of the wanted size.
SPLIT_SALT = "headroom-26"
# Not the standard library proper: installed packages, tests, demonstrations, test data, build leftovers.
SKIPPED_FOLDERS = frozenset(
    "__pycache__ _bundled dist-packages idle_test idlelib lib-dynload lib2to3 pydoc_data site-packages test "
    "tests turtledemo".split()
)
SKIPPED_PREFIXES = ("config-", "_sysconfigdata")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Module:
    """A standard-library module, by its dotted name and its file."""

    name: str
    path: Path

    @property
    def part(self) -> Part:
        return part_of(self.name)

    def source(self) -> str:
        """The text of the file, in the encoding that the file itself declares."""
        with tokenize.open(self.path) as stream:
            return stream.read()


def part_of(module_name: str) -> Part:
    """The part a module belongs to, by its top-level name.

    Whole packages go together because their modules repeat each other's words, and ``_pydatetime`` goes with
    ``datetime``, so that text which moved between Python versions stays in its part.
    """
    top_level = module_name.partition(".")[0].removeprefix("_py").strip("_")
    digest = hashlib.sha256(f"{SPLIT_SALT}:{top_level}".encode()).digest()
    return "held-out" if int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT else "train"


def stdlib_folder() -> Path:
    """The folder of the running interpreter's standard library (the base one, inside a virtual environment)."""
    return Path(sysconfig.get_paths()["stdlib"])


def stdlib_modules(folder: Path) -> list[Module]:
    """Every module below ``folder`` that belongs to the library proper, sorted by name."""
    modules = []
    for path in folder.rglob("*.py"):
        steps = path.relative_to(folder).with_suffix("").parts
        if not SKIPPED_FOLDERS.isdisjoint(steps) or any(step.startswith(SKIPPED_PREFIXES) for step in steps):
            continue
        name = ".".join(steps[:-1] if steps[-1] == "__init__" and len(steps) > 1 else steps)
        modules.append(Module(name, path))
    return sorted(modules, key=lambda module: module.name)


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module, its classes and its functions, dedented, in the order of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old modules hold escapes that newer Pythons warn about
        tree = ast.parse(source)
    for owner in sorted(_owners(tree), key=lambda node: getattr(node, "lineno", 0)):
        text = (ast.get_docstring(owner) or "").strip()
        if text and _is_storable(text):
            yield text


def _owners(node: ast.AST) -> Iterator[Owner]:
    """What can have a docstring, in this node. Only statements hold such, so no expression is looked through."""
    if isinstance(node, Owner):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _owners(child)


def _is_storable(text: str) -> bool:
    """Whether UTF-8 can hold the text: a docstring may show a lone surrogate, which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def corpus(folder: Path | None = None) -> dict[Part, list[str]]:
    """Both parts, one document per module: its docstrings, joined by blank lines.

    A docstring that several modules share is kept once, and in the train part if it occurs there at all:
    the held-out part must not repeat a sentence that a model was trained on.
    """
    modules = stdlib_modules(folder or stdlib_folder())
    seen: set[str] = set()
    kept: dict[Part, list[str]] = {"train": [], "held-out": []}
    for module in sorted(modules, key=lambda module: module.part == "held-out"):
        fresh = []
        for text in _docstrings_or_nothing(module):
            if text not in seen:
                seen.add(text)
                fresh.append(text)
        if fresh:
            kept[module.part].append("\n\n".join(fresh))
    return kept


def _docstrings_or_nothing(module: Module) -> list[str]:
    """A file that this Python cannot parse (a template, a sample of another version) has no docstrings."""
    try:
        return list(docstrings(module.source()))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        logger.warning("skipped %s: not readable as Python", module.name)
        return []


def help_topics(folder: Path | None = None) -> list[str]:
    """The language reference behind ``help("topic")``: prose for training, in no part of the corpus."""
    path = (folder or stdlib_folder()) / "pydoc_data" / "topics.py"
    if not path.exists():
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tables = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    topics = [text for table in tables for text in ast.literal_eval(table).values()]
    return [text.strip() for text in dict.fromkeys(topics)]


def training_sources(folder: Path | None = None) -> list[str]:
    """The source files of the train part: comments and code, for a model that sees too few docstrings."""
    modules = stdlib_modules(folder or stdlib_folder())
    tables = "encodings."  # hundreds of generated character tables
    return [m.source() for m in modules if m.part == "train" and not m.name.startswith(tables)]


def write_jsonl(texts: Iterable[str], output: Path) -> None:
    """Write one ``{"text": ...}`` per line; a reader sees the whole file or none of it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        Path(partial).chmod(0o644)
        Path(partial).replace(output)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one part of the corpus to a file."""
    parser = argparse.ArgumentParser(description="Collect the docstrings of this Python's standard library.")
    parser.add_argument("--part", choices=get_args(Part), default="held-out", help="default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="the .jsonl file to write")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    texts = corpus()[options.part]
    write_jsonl(texts, options.output)
    logger.info("%s: %d documents, %d characters", options.output, len(texts), sum(map(len, texts)))


if __name__ == "__main__":
    main()
