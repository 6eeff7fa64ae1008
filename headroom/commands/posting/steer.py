"""`headroom steer MODEL`."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from headroom.client.client import Client
from headroom.commands.posting.compress import check_output
from headroom.commands.posting.corpus_argument import check_corpus
from headroom.commands.posting.following import Run, follow
from headroom.commands.posting.model_argument import choose_model
from headroom.commands.terminal.options import job_options, reading_options
from headroom.commands.terminal.server import connect, server_for
from headroom.commands.terminal.signals import signals_as_interrupts


def read_token(value: str, name: str) -> dict[str, Any]:
    """`TOKEN=MULTIPLIER`; the token may hold '=' itself."""
    token, separator, multiplier = value.rpartition("=")
    try:
        if separator and token:
            return {name: int(token) if name == "id" else token, "multiplier": float(multiplier)}
    except ValueError:
        pass
    raise click.BadParameter(f"'{value}' is not of the form TOKEN=MULTIPLIER, as ' hello=5'.")


def read_tokens(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[dict[str, Any]]:
    return [read_token(value, "id" if option.name == "token_ids" else "text") for value in values]


@click.command("steer")
@click.argument("model")
@click.option(
    "--token", "tokens", multiple=True, callback=read_tokens, metavar="TEXT=M", help="' hello=5': 5 times as probable."
)
@click.option("--token-id", "token_ids", multiple=True, callback=read_tokens, metavar="ID=M", help="The same by id.")
@click.option("--sparse", type=int, metavar="N", help="Edit only the N columns of the largest slopes.")
@click.option("--few-examples", type=int, metavar="N", help="Fit the slope on only so many tokens of text.")
@click.option("--max-kl", type=float, metavar="NATS", help="Refuse when predictions move further than this on average.")
@click.option("--tied", type=click.Choice(["untie", "keep"]), help="What becomes of a head tied to the input table.")
@click.option("--publish", metavar="NS/NAME", help="What the server's hub calls the checkpoint.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: <name>-steered.")
@job_options
def command(
    model: str,
    corpus: str,
    field: str,
    server: str | None,
    data_dir: str,
    models_dir: str | None,
    output: Path | None,
    tokens: list[dict[str, Any]],
    token_ids: list[dict[str, Any]],
    as_json: bool,
    **rest: Any,
) -> int:
    """Make tokens of MODEL more or less probable, measure what else moved, and fetch the plain checkpoint.

    Exit codes: 0 succeeded, 2 bad input, 3 over --max-kl, 130 interrupted, 1 anything else.
    """
    if not tokens and not token_ids:
        raise click.UsageError("name at least one token with --token or --token-id")
    choice = choose_model(model, Path(models_dir) if models_dir else None, remote=server is not None)
    folder = output or Path(f"{choice.name}-steered")
    check_output(folder)
    check_corpus(corpus)
    post = partial(
        Client.submit,
        kind="steer",
        model=choice.id,
        corpus=corpus,
        field=field,
        revision=rest["revision"],
        tokens=tokens + token_ids,
        edit=None if rest["sparse"] is None else {"sparse": rest["sparse"]},
        few_examples=rest["few_examples"],
        max_kl=rest["max_kl"],
        publish=None if rest["publish"] is None else {"repo": rest["publish"]},
        options=reading_options(rest) | ({} if rest["tied"] is None else {"tied": rest["tied"]}),
        labels=rest["labels"],
    )
    with (
        signals_as_interrupts(),
        server_for(server, Path(data_dir), choice.models_dir) as url,
        connect(url) as client,
    ):
        return follow(client, Run(f"Steering {choice.id}", post, folder, as_json))
