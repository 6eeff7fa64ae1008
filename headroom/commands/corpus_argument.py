"""--corpus on the command line: a file, or the id of an uploaded corpus."""

from pathlib import Path

from headroom.client import CORPUS_ID
from headroom.errors import InvalidArgument


def check_corpus(corpus: str) -> None:
    """Before a server is started for it."""
    if not CORPUS_ID.fullmatch(corpus) and not Path(corpus).is_file():
        raise InvalidArgument(f"There is no corpus file '{corpus}'.")
