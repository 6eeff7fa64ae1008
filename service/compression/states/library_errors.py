"""What a user is told when transformers raises: the fact, in our words where known; never a library's advice."""

import base64
import binascii
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

# "LlamaTokenizer requires the SentencePiece library but it was not found", "`tiktoken` is required to ..."
MISSING = (
    re.compile(r"requires the ([\w-]+) (?:library|package)", re.IGNORECASE),
    re.compile(r"`([\w-]+)` is required"),
    re.compile(r"(?:need|have) to install ([\w-]+)"),
    re.compile(r"pip install (?:-U |--upgrade )?[`'\"]?([\w-]+)"),
)
# A sentence with one of these tells the reader to do something to a program that is not theirs.
ADVICE = re.compile(
    r"install|upgrad|updat|out of date|ignore_mismatched|trust_remote|from_tf|from_flax|use_fast|use_auth|legacy="
    r"|https?:|github|please|make sure|make certain|you can |you should |you set |you need |you are trying |try |pass "
    r"|report|module '\w+' has no attribute|hugging ?face",
    re.IGNORECASE,
)
MAX_LENGTH = 300


def fact_of(error: BaseException) -> str:
    """The first line of an error up to the first sentence that is advice; the name of its class if nothing is left."""
    lines = str(error).strip().splitlines()
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?]) ", lines[0] if lines else ""):
        if ADVICE.search(sentence):
            break
        kept.append(sentence)
    return " ".join(kept).strip().rstrip(".")[:MAX_LENGTH] or type(error).__name__


def missing_library(error: BaseException, folder: Path) -> str | None:
    """The package that this machine lacks to read the tokenizer of `folder`, if that is why it could not be loaded."""
    kind = _vocabulary_kind(folder)
    if kind is not None and not _is_there(kind):
        return kind
    for link in _chain(error):
        if isinstance(link, ModuleNotFoundError) and link.name:
            return link.name.partition(".")[0]
        if isinstance(link, ImportError | ValueError):
            for pattern in MISSING:
                if found := pattern.search(str(link)):
                    name = found[1].lower()
                    return None if _is_there(name) else name
    return None


def _vocabulary_kind(folder: Path) -> str | None:
    """What reads the vocabulary of a folder without tokenizer.json. Lines of base64 and ranks are tiktoken's."""
    if (folder / "tokenizer.json").is_file():
        return None
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        if path.suffix == ".tiktoken":
            return "tiktoken"
        if path.suffix in (".model", ".spm"):
            with path.open("rb") as file:
                return "tiktoken" if _is_tiktoken(file.readline(1000)) else "sentencepiece"
    return None


def _is_tiktoken(line: bytes) -> bool:
    token, _, rank = line.strip().partition(b" ")
    try:
        return bool(base64.b64decode(token, validate=True)) and rank.isdigit()
    except binascii.Error:
        return False


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__
