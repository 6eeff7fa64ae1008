"""`headroom compress MODEL`."""

import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from headroom.client.client import Client
from headroom.commands.posting.corpus_argument import check_corpus, read_evaluations
from headroom.commands.posting.following import Run, follow
from headroom.commands.posting.model_argument import choose_model
from headroom.commands.terminal.options import drift_options, job_options, reading_options
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect, server_for
from headroom.commands.terminal.signals import signals_as_interrupts
from headroom.contract.posted import JobSettings
from headroom.errors import InvalidArgument
from headroom.views.job_views import dry_run_view
from headroom.views.rendering import console_for, show

METHODS = "probability (default), activation, pca, fisher, magnitude, spearman, slope (the paper), random"


def read_ratio(context: click.Context, option: click.Parameter, value: str) -> float | Literal["auto"]:
    """A number, or the word auto. Whether the number makes sense is for the server to say."""
    if value == "auto":
        return "auto"
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is neither a number nor 'auto'.") from error


def read_budget(context: click.Context, option: click.Parameter, value: str | None) -> dict[str, float] | None:
    """`name=number`. Whether both make sense is for the server to say."""
    if value is None:
        return None
    name, _, number = value.partition("=")
    try:
        return {name: float(number)}
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is not of the form read_bytes=0.31 or kl=0.004.") from error


@click.command("compress")
@click.argument("model")
@click.option(
    "--ratio",
    callback=read_ratio,
    default="auto",
    show_default=True,
    metavar="0.3|auto",
    help="Share of the head's columns to remove; auto takes the form of head that reads least within the budget.",
)
@click.option(
    "--budget",
    callback=read_budget,
    metavar="read_bytes=0.31|stored_bytes=0.55|drift=0.01|kl=0.004",
    help="Search all forms of head: least KL at this share of bytes, or fewest bytes read at this drift or KL.",
)
@click.option("--method", metavar="NAME", help=f"How columns are chosen: {METHODS}.")
@drift_options
@click.option("--group-field", metavar="NAME", help="Field of JSON lines that names the group of each text.")
@click.option("--group-gap", type=float, metavar="0.01", help="Largest gap in drift between two groups.")
@click.option(
    "--evaluate",
    "evaluation",
    callback=read_evaluations,
    multiple=True,
    metavar="NAME=FILE[:0.02]",
    help="Measure on this text too, with a budget of its own; the worst decides. Repeatable.",
)
@click.option("--publish", metavar="NS/NAME", help="What the server's hub calls the checkpoint.")
@click.option(
    "--publish-ratio",
    "publish_ratios",
    type=float,
    multiple=True,
    metavar="0.5",
    help="Store the checkpoint of this ratio too, as a further revision, in the budget or not. Repeatable.",
)
@click.option("--webhook", metavar="URL", help="Where the server tells of the job's end; needs --server.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: <name>-headroom.")
@click.option("--tied", type=click.Choice(["keep", "untie"]), help="What becomes of a head tied to the input table.")
@click.option(
    "--head-dtype",
    type=click.Choice(["source", "int8", "int4", "planes"]),
    help="Keep columns in the model's own dtype, round them, or store all of them in bit planes.",
)
@click.option("--bits", type=int, metavar="4", help="Of planes: bits that the preview of all logits reads: 8, 4, 3, 2.")
@click.option("--rescored", type=int, metavar="1024", help="Of planes: best rows computed again from all 8 bits.")
@click.option("--whole-columns", type=int, metavar="32", help="Of planes: columns that the preview reads whole.")
@click.option("--repair", type=click.Choice(["mean", "none"]), help="Fold the mean of what is removed into the bias?")
@click.option("--keep-removed", is_flag=True, default=None, help="Store what `headroom restore` needs.")
@click.option("--refine", is_flag=True, default=None, help="Train the kept columns further on the hidden states.")
@click.option("--export", type=click.Choice(["dense", "onnx"]), multiple=True, help="Write this too. Repeatable.")
@click.option("--shards", type=int, metavar="N", help="Share the windows out among the server's workers, N pieces.")
@click.option("--column-multiple", type=int, metavar="N", help="Kept columns are a multiple of this.")
@job_options
@click.option("--dry-run", is_flag=True, help="Check everything and estimate; make no job.")
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

    Exit codes: 0 succeeded, 2 bad input, 3 rejected by the drift gate, 4 not worth storing, 130 interrupted, 1 anything
    else.
    """
    if rest["webhook"] is not None and server is None:
        raise click.UsageError("--webhook needs --server: without one the service ends with the job, and tells nobody.")
    choice = choose_model(model, Path(models_dir) if models_dir else None, remote=server is not None)
    folder = output or Path(f"{choice.name}-headroom")
    if not dry_run:
        check_output(folder)
    for file in (corpus, *(str(one.corpus) for one in rest["evaluation"])):
        check_corpus(file)
    settings = settings_from(rest)
    with (
        signals_as_interrupts(),
        server_for(server, Path(data_dir), choice.models_dir) as url,
        connect(url) as client,
    ):
        if not dry_run:
            asked: dict[str, Any] = {**(settings.get("budget") or {"ratio": settings.get("ratio")})}
            doing = f"Compressing {choice.id}, " + ", ".join(f"{name} {value}" for name, value in asked.items())
            post = partial(Client.compress, model=choice.id, corpus=corpus, field=field, **settings)
            return follow(client, Run(doing, post, folder, as_json))
        result = client.validate(choice.id, corpus, field=field, **settings)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        show(console_for(sys.stdout), dry_run_view(result))
    return 0


def settings_from(values: dict[str, Any]) -> JobSettings:
    """Options of the command line as settings of the client; what was not given is left to the server."""
    names = ("head_dtype", "tied", "repair", "keep_removed", "refine", "export", "column_multiple", "group_field")
    planes = {name: values[name] for name in ("bits", "rescored", "whole_columns") if values[name] is not None}
    given: dict[str, Any] = {
        name: values[name] for name in (*names, "shards", "publish_ratios") if values[name] not in (None, ())
    }
    return JobSettings(
        revision=values["revision"],
        ratio=values["ratio"],
        budget=values["budget"],
        method=values["method"],
        max_drift=values["max_drift"],
        kl_budget=values["kl_budget"],
        min_top1=values["min_top1"],
        max_rare_drift=values["max_rare_drift"],
        group_gap=values["group_gap"],
        evaluation=values["evaluation"],
        publish=values["publish"],
        options=reading_options(values) | given | ({"planes": planes} if planes else {}),
        labels=values["labels"],
        webhook=values["webhook"],
    )


def check_output(folder: Path) -> None:
    """Only an earlier output may be overwritten. Asked before an hour of work, not after."""
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"'{folder}' is a file; choose another --output.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "headroom.json").is_file():
        raise InvalidArgument(f"'{folder}' holds other files; choose another --output.")
