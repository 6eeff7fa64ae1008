"""`headroom compress MODEL`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

from headroom.client import CORPUS_ID, Client
from headroom.commands.following import Run, follow
from headroom.commands.model_argument import choose_model
from headroom.commands.options import data_dir_option, json_option, models_dir_option
from headroom.commands.output import print_json
from headroom.commands.signals import signals_as_interrupts
from headroom.errors import InvalidArgument
from headroom.recipe import Settings
from headroom.rendering import console_for, dry_run_view, show

METHODS = "probability (default), activation, pca, fisher, magnitude, spearman, slope (the paper), random"


def read_ratio(context: click.Context, option: click.Parameter, value: str) -> float | Literal["auto"]:
    """A number, or the word auto. Whether the number makes sense is for the server to say."""
    if value == "auto":
        return "auto"
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is neither a number nor 'auto'.") from error


def read_labels(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"'{value}' is not of the form key=value.")
        labels[key] = text
    return labels


@click.command("compress")
@click.argument("model")
@click.option("--corpus", required=True, metavar="FILE", help="Text or .jsonl (also .gz, .zst), or an uploaded id.")
@click.option("--field", default="text", show_default=True, metavar="NAME", help="What holds the text of a JSON line.")
@click.option(
    "--ratio",
    callback=read_ratio,
    default="auto",
    show_default=True,
    metavar="0.3|auto",
    help="Share of the head's columns to remove; auto finds the largest within the budget.",
)
@click.option("--method", metavar="NAME", help=f"How columns are chosen: {METHODS}.")
@click.option("--max-drift", type=float, metavar="0.01", help="Largest growth of perplexity; 0.01 (default) is 1 %.")
@click.option("--kl-budget", type=float, metavar="NATS", help="Largest mean KL divergence per token.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: <name>-headroom.")
@click.option("--server", envvar="HEADROOM_SERVER", metavar="URL", help="Default: one started for the time of the job.")
@data_dir_option
@models_dir_option
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub model.")
@click.option("--tied", type=click.Choice(["keep", "untie"]), help="What becomes of a head tied to the input table.")
@click.option("--repair", type=click.Choice(["mean", "none"]), help="Fold the mean of what is removed into the bias?")
@click.option("--window", type=int, metavar="TOKENS", help="Length of a window.")
@click.option("--calibration-tokens", type=int, metavar="N", help="At most so many tokens to calibrate on.")
@click.option("--evaluation-tokens", type=int, metavar="N", help="At most so many tokens to measure on.")
@click.option("--column-multiple", type=int, metavar="N", help="Kept columns are a multiple of this.")
@click.option("--seed", type=int, metavar="N", help="Of the split, the intervals and the random method.")
@click.option("--label", "labels", callback=read_labels, multiple=True, metavar="KEY=VALUE", help="Kept with the job.")
@click.option("--dry-run", is_flag=True, help="Check everything and estimate; make no job.")
@json_option
def command(
    model: str,
    corpus: str,
    field: str,
    server: str | None,
    data_dir: str,
    models_dir: str | None,
    output: Path | None,
    dry_run: bool,
    as_json: bool,
    **rest: Any,
) -> int:
    """Compress MODEL, an id (<ns>/<name>) or a local folder, and fetch the checkpoint.

    Exit codes: 0 succeeded, 2 bad input, 3 rejected by the drift gate, 130 interrupted, 1 anything else.
    """
    choice = choose_model(model, Path(models_dir) if models_dir else None, remote=server is not None)
    folder = output or Path(f"{choice.name}-headroom")
    if not dry_run:
        check_output(folder)
    if not CORPUS_ID.fullmatch(corpus) and not Path(corpus).is_file():
        raise InvalidArgument(f"There is no corpus file '{corpus}'.")
    settings = settings_from(rest)
    with signals_as_interrupts(), server_for(server, Path(data_dir), choice.models_dir) as url, Client(url) as client:
        if not dry_run:
            return follow(client, Run(choice.id, corpus, field, settings, folder, as_json))
        result = client.validate(choice.id, corpus, field=field, **settings)
    if as_json:
        print_json({"valid": True, "model": result.model, "head": result.head, "estimate": result.estimate})
    else:
        show(console_for(sys.stdout), dry_run_view(result))
    return 0


def settings_from(values: dict[str, Any]) -> Settings:
    """Options of the command line as settings of the client; what was not given is left to the server."""
    names = ("tied", "repair", "window", "calibration_tokens", "evaluation_tokens", "column_multiple", "seed")
    return Settings(
        revision=values["revision"],
        ratio=values["ratio"],
        method=values["method"],
        max_drift=values["max_drift"],
        kl_budget=values["kl_budget"],
        options={name: values[name] for name in names if values[name] is not None},
        labels=values["labels"],
    )


def check_output(folder: Path) -> None:
    """Only an earlier output may be overwritten. Asked before an hour of work, not after."""
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"'{folder}' is a file; choose another --output.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "headroom.json").is_file():
        raise InvalidArgument(f"'{folder}' holds other files; choose another --output.")


@contextmanager
def server_for(server: str | None, data_dir: Path, models_dir: Path | None) -> Iterator[str]:
    """The URL of the named server, or of an embedded one that stops with the block."""
    if server is not None:
        yield server
        return
    from headroom.embedded import EmbeddedServer

    embedded = EmbeddedServer(data_dir, models_dir, "127.0.0.1", 0)
    with console_for(sys.stderr).status("starting the embedded service"):
        embedded.start()
    try:
        yield embedded.url
    finally:
        embedded.stop()
