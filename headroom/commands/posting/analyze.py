"""`headroom analyze MODEL`."""

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


@click.command("analyze")
@click.argument("model")
@job_options
def command(
    model: str,
    corpus: str,
    field: str,
    server: str | None,
    data_dir: str,
    models_dir: str | None,
    as_json: bool,
    **rest: Any,
) -> int:
    """Measure how token probability is encoded in the output head of MODEL. Changes nothing and makes no files."""
    choice = choose_model(model, Path(models_dir) if models_dir else None, remote=server is not None)
    check_corpus(corpus)
    post = partial(
        Client.submit,
        kind="analyze",
        model=choice.id,
        corpus=corpus,
        field=field,
        revision=rest["revision"],
        options=reading_options(rest),
        labels=rest["labels"],
    )
    with (
        signals_as_interrupts(),
        server_for(server, Path(data_dir), choice.models_dir) as url,
        connect(url) as client,
    ):
        return follow(client, Run(f"Analyzing {choice.id}", post, None, as_json))
