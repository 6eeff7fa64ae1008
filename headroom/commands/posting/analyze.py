"""`headroom analyze MODEL`."""

from typing import Any

import click

from headroom.commands.posting.job_posting import chosen_model, post_job
from headroom.commands.terminal.options import job_options


@click.command("analyze")
@click.argument("model")
@job_options
def command(model: str, **given: Any) -> int:
    """Measure how token probability is encoded in the output head of MODEL. Changes nothing and makes no files."""
    choice = chosen_model(model, given)
    return post_job("analyze", choice, given, f"Analyzing {choice.id}", {})
