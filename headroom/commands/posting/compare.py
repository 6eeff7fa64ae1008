"""`headroom compare A B`."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from headroom.client.client import Client
from headroom.commands.posting.compared_models import side_by_side
from headroom.commands.posting.corpus_argument import check_corpus
from headroom.commands.posting.following import Run, follow
from headroom.commands.terminal.options import drift_options, job_options, reading_options
from headroom.commands.terminal.server import connect, server_for
from headroom.commands.terminal.signals import signals_as_interrupts
from headroom.contract.posted import BOUNDS, drift_body


@click.command("compare")
@click.argument("model", metavar="A")
@click.argument("other", metavar="B")
@drift_options
@click.option("--group-field", metavar="NAME", help="Field of JSON lines that names the group of each text.")
@job_options
def command(
    model: str,
    other: str,
    corpus: str,
    field: str,
    server: str | None,
    data_dir: str,
    models_dir: str | None,
    as_json: bool,
    group_field: str | None,
    **rest: Any,
) -> int:
    """Measure how far the predictions of B lie from those of A: ids or folders, plain or sliced.

    Any bound makes it a judgement, by the defaults of the other bounds too; without one it only measures.

    Exit codes: 0 measured (and inside the budget), 2 bad input, 3 over the budget, 130 interrupted, 1 anything else.
    """
    check_corpus(corpus)
    drift = drift_body({name: rest[name] for name in BOUNDS})
    data, models, remote = Path(data_dir), Path(models_dir) if models_dir else None, server is not None
    with signals_as_interrupts(), side_by_side((model, other), models, data, remote=remote) as (ids, models):
        post = partial(
            Client.submit,
            kind="compare",
            model=ids[0],
            other={"id": ids[1]},
            corpus=corpus,
            field=field,
            revision=rest["revision"],
            drift=drift,
            options=reading_options(rest) | ({"group_field": group_field} if group_field else {}),
            labels=rest["labels"],
        )
        with server_for(server, data, models) as url, connect(url) as client:
            return follow(client, Run(f"Comparing {ids[0]} with {ids[1]}", post, None, as_json))
