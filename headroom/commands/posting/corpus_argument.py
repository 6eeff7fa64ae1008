"""--corpus and --evaluate on the command line: a file, or the id of an uploaded corpus."""

from pathlib import Path

import click

from headroom.client.client import CORPUS_ID
from headroom.contract.posted import Evaluation
from headroom.errors import InvalidArgument


def check_corpus(corpus: str) -> None:
    """Before a server is started for it."""
    if not CORPUS_ID.fullmatch(corpus) and not Path(corpus).is_file():
        raise InvalidArgument(f"There is no corpus file '{corpus}'.")


def read_evaluations(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[Evaluation, ...]:
    """NAME=FILE or NAME=FILE:BUDGET. What follows the last colon is a budget only if it is a number."""
    return tuple(_evaluation(value) for value in values)


def _evaluation(value: str) -> Evaluation:
    name, equals, rest = value.partition("=")
    if not name or not equals or not rest:
        raise click.BadParameter(f"'{value}' is not of the form NAME=FILE or NAME=FILE:0.02.")
    file, colon, budget = rest.rpartition(":")
    try:
        return Evaluation(name, file, float(budget)) if colon and file else Evaluation(name, rest)
    except ValueError:
        return Evaluation(name, rest)
