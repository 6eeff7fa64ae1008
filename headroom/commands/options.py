"""Options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_DATA_DIR = ".headroom"

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def server_option(command: CommandT) -> CommandT:
    return click.option(
        "--server",
        envvar="HEADROOM_SERVER",
        default=DEFAULT_SERVER,
        show_default=True,
        metavar="URL",
        help="The server.",
    )(command)


def json_option(command: CommandT) -> CommandT:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")(
        command
    )


def data_dir_option(command: CommandT) -> CommandT:
    return click.option(
        "--data-dir",
        envvar="HEADROOM_DATA_DIR",
        default=DEFAULT_DATA_DIR,
        show_default=True,
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Where the embedded service keeps its database, caches and results.",
    )(command)


def models_dir_option(command: CommandT) -> CommandT:
    return click.option(
        "--models-dir",
        envvar="HEADROOM_MODELS_DIR",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Local models: DIR/<ns>/<name> is the model <ns>/<name>.",
    )(command)
