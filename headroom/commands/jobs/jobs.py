"""`headroom jobs`."""

import sys

import click

from headroom.commands.terminal.options import json_option, read_labels, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect
from headroom.views.job_views import jobs_table
from headroom.views.rendering import console_for, show

STATUSES = ("queued", "running", "canceling", "succeeded", "failed", "canceled", "rejected")  # help loads no contract
KINDS = ("compress", "analyze", "compare", "steer", "dynamics")


@click.command("jobs")
@click.option("--status", type=click.Choice(STATUSES), help="Only jobs in this state.")
@click.option("--kind", type=click.Choice(KINDS), help="Only jobs of this kind.")
@click.option("--model", metavar="NS/NAME", help="Only jobs on this model.")
@click.option(
    "--label", "labels", callback=read_labels, multiple=True, metavar="KEY=VALUE", help="Only with this label."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@server_option
@json_option
def command(
    status: str | None,
    kind: str | None,
    model: str | None,
    labels: dict[str, str],
    limit: int,
    server: str,
    as_json: bool,
) -> int:
    """List jobs, newest first."""
    with connect(server) as client:
        jobs = [job.record for job in client.jobs(status=status, kind=kind, model=model, labels=labels, limit=limit)]
    if as_json:
        print_json({"data": [job.told for job in jobs]})
    elif jobs:
        console = console_for(sys.stdout)
        show(console, jobs_table(jobs, console.width))
    else:
        click.echo("No jobs.")
    return 0
