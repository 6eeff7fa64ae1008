"""`headroom dynamics MODEL --checkpoint REVISION`."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from headroom.client.client import Client
from headroom.commands.posting.corpus_argument import check_corpus
from headroom.commands.posting.following import Run, follow
from headroom.commands.posting.model_argument import choose_model
from headroom.commands.terminal.options import job_options, reading_options
from headroom.commands.terminal.server import connect, server_for
from headroom.commands.terminal.signals import signals_as_interrupts


@click.command("dynamics")
@click.argument("model")
@click.option(
    "--checkpoint",
    "checkpoints",
    required=True,
    multiple=True,
    metavar="REVISION",
    help="An earlier state of MODEL: branch, tag or commit of a hub model, or a folder inside a local one. Repeatable, "
    "oldest first.",
)
@job_options
def command(
    model: str,
    checkpoints: tuple[str, ...],
    corpus: str,
    field: str,
    server: str | None,
    data_dir: str,
    models_dir: str | None,
    as_json: bool,
    **rest: Any,
) -> int:
    """Measure how early in training the output head of MODEL told of token frequency. Makes no files."""
    choice = choose_model(model, Path(models_dir) if models_dir else None, remote=server is not None)
    check_corpus(corpus)
    post = partial(
        Client.submit,
        kind="dynamics",
        model=choice.id,
        corpus=corpus,
        field=field,
        revision=rest["revision"],
        checkpoints=[{"id": choice.id, "revision": revision} for revision in checkpoints],
        options=reading_options(rest),
        labels=rest["labels"],
    )
    doing = f"Following {choice.id} over {len(checkpoints) + 1} states"
    with (
        signals_as_interrupts(),
        server_for(server, Path(data_dir), choice.models_dir) as url,
        connect(url) as client,
    ):
        return follow(client, Run(doing, post, None, as_json))
