"""`headroom jobs`."""

import sys

import click

from headroom.commands.options import json_option, server_option
from headroom.commands.output import print_json
from headroom.commands.server import connect
from headroom.rendering import console_for, jobs_table, show

STATUSES = ("queued", "running", "canceling", "succeeded", "failed", "canceled", "rejected")


@click.command("jobs")
@click.option("--status", type=click.Choice(STATUSES), help="Only jobs in this state.")
@click.option("--model", metavar="NS/NAME", help="Only jobs on this model.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@server_option
@json_option
def command(status: str | None, model: str | None, limit: int, server: str, as_json: bool) -> int:
    """List jobs, newest first."""
    with connect(server) as client:
        jobs = [job.record for job in client.jobs(status=status, model=model, limit=limit)]
    if as_json:
        print_json({"data": [job.json for job in jobs]})
    elif jobs:
        console = console_for(sys.stdout)
        show(console, jobs_table(jobs, console.width))
    else:
        click.echo("No jobs.")
    return 0
