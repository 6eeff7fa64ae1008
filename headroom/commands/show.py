"""`headroom show ID`."""

import sys

import click

from headroom.commands.options import json_option, server_option
from headroom.commands.output import print_json
from headroom.commands.server import connect
from headroom.rendering import console_for, job_view, show
from headroom.report_views import report_views


@click.command("show")
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def command(job_id: str, server: str, as_json: bool) -> int:
    """Show one job and, once it has measured something, its drift table."""
    with connect(server) as client:
        job = client.job(job_id)
        report = job.report() if job.record.figures else None
    if as_json:
        print_json(job.record.json | {"report": report})
        return 0
    views = [job_view(job.record)]
    if report:
        views += ["", *report_views(job.record, report)]
    show(console_for(sys.stdout), *views)
    return 0
