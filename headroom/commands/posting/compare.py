"""`headroom compare A B`."""

from pathlib import Path
from typing import Any

import click

from headroom.commands.posting.compared_models import side_by_side
from headroom.commands.posting.corpus_argument import check_corpus
from headroom.commands.posting.job_posting import models_dir_of, post_job
from headroom.commands.posting.model_argument import ModelChoice
from headroom.commands.terminal.options import drift_options, job_options
from headroom.commands.terminal.signals import signals_as_interrupts
from headroom.contract.posted import BOUNDS, drift_body


@click.command("compare")
@click.argument("model", metavar="A")
@click.argument("other", metavar="B")
@drift_options
@click.option("--group-field", metavar="NAME", help="Field of JSON lines that names the group of each text.")
@job_options
def command(model: str, other: str, group_field: str | None, **given: Any) -> int:
    """Measure how far the predictions of B lie from those of A: ids or folders, plain or sliced.

    Any bound makes it a judgement, by the defaults of the other bounds too; without one it only measures.

    Exit codes: 0 measured (and inside the budget), 2 bad input, 3 over the budget, 130 interrupted, 1 anything else.
    """
    check_corpus(given["corpus"])  # before anything is linked
    drift = drift_body({name: given[name] for name in BOUNDS})
    remote, options = given["server"] is not None, {"group_field": group_field} if group_field else {}
    data, models = Path(given["data_dir"]), models_dir_of(given)
    with signals_as_interrupts(), side_by_side((model, other), models, data, remote=remote) as (ids, models):
        fields = {"other": {"id": ids[1]}, "drift": drift}
        doing = f"Comparing {ids[0]} with {ids[1]}"
        return post_job("compare", ModelChoice(ids[0], models), given, doing, fields, options)
