"""Options that several commands share."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from headroom.commands.terminal.server import KEY

DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_DATA_DIR = ".headroom"

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _keep_key(context: click.Context, option: click.Parameter, value: str | None) -> None:
    context.meta[KEY] = value


def key_option(command: CommandT) -> CommandT:
    return click.option(
        "--key",
        metavar="@FILE",
        callback=_keep_key,
        expose_value=False,
        help="A file with the key that the server asks for; or set HEADROOM_KEY.",
    )(command)


def server_option(command: CommandT) -> CommandT:
    command = key_option(command)
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


def read_labels(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"'{value}' is not of the form key=value.")
        labels[key] = text
    return labels


def reading_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `job_options` that say how the corpus is read, as the recipe's `options`; only what was given."""
    names = ("window", "calibration_tokens", "evaluation_tokens", "seed")
    return {name: values[name] for name in names if values[name] is not None}


def job_options(command: CommandT) -> CommandT:
    """What every command that posts a job takes: corpus, server, how to read the corpus, labels, --json."""
    options = [
        click.option(
            "--corpus", required=True, metavar="FILE", help="Text or .jsonl (also .gz, .zst), or an uploaded id."
        ),
        click.option(
            "--field",
            default="text",
            show_default=True,
            metavar="NAME",
            help="Holds the text of a JSON line; two, SOURCE,TARGET, hold pairs.",
        ),
        click.option("--server", envvar="HEADROOM_SERVER", metavar="URL", help="Default: one started for the job."),
        key_option,
        data_dir_option,
        models_dir_option,
        click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub model."),
        click.option("--window", type=int, metavar="TOKENS", help="Length of a window."),
        click.option("--calibration-tokens", type=int, metavar="N", help="At most so many tokens to calibrate on."),
        click.option("--evaluation-tokens", type=int, metavar="N", help="At most so many tokens to measure on."),
        click.option("--seed", type=int, metavar="N", help="Of the split, the intervals and random columns."),
        click.option(
            "--label", "labels", callback=read_labels, multiple=True, metavar="KEY=VALUE", help="Kept with the job."
        ),
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def drift_options(command: CommandT) -> CommandT:
    """How far predictions may move. The defaults are the server's; `inf` bounds nothing."""
    options = [
        click.option(
            "--max-drift", type=float, metavar="0.01", help="Largest growth of perplexity; 0.01 (default) is 1 %."
        ),
        click.option(
            "--max-kl",
            "--kl-budget",
            "kl_budget",
            type=float,
            metavar="NATS",
            help="Largest mean KL divergence per token; 0.01 by default, inf for none.",
        ),
        click.option("--min-top1", type=float, metavar="0.98", help="Least share of unchanged most probable tokens."),
        click.option(
            "--max-rare-drift", type=float, metavar="0.05", help="Largest growth of perplexity on rare tokens."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command
