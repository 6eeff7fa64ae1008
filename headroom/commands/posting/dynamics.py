"""`headroom dynamics MODEL --checkpoint REVISION`."""

from typing import Any

import click

from headroom.commands.posting.job_posting import chosen_model, post_job
from headroom.commands.terminal.options import job_options


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
def command(model: str, checkpoints: tuple[str, ...], **given: Any) -> int:
    """Measure how early in training the output head of MODEL told of token frequency. Makes no files."""
    choice = chosen_model(model, given)
    states = [{"id": choice.id, "revision": revision} for revision in checkpoints]
    doing = f"Following {choice.id} over {len(checkpoints) + 1} states"
    return post_job("dynamics", choice, given, doing, {"checkpoints": states})
