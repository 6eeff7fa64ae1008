"""`headroom show ID`."""

import sys

import click

from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect
from headroom.contract.answers.job import EventView
from headroom.contract.report.report import open_report
from headroom.views.job_views import job_view
from headroom.views.rendering import console_for, records_table, show
from headroom.views.report_views import report_views


@click.command("show")
@click.argument("job_id", metavar="ID")
@click.option("--events", "part", flag_value="events", help="Its history instead.")
@click.option("--figures", "part", flag_value="figures", help="The plots of its report instead, as JSON for plotly.")
@server_option
@json_option
def command(job_id: str, part: str | None, server: str, as_json: bool) -> int:
    """Show one job and, once it has measured something, its drift table."""
    with connect(server) as client:
        job = client.job(job_id)
        if part == "figures":
            print_json(job.figures())
            return 0
        if part == "events":
            _show_events(list(job.events_so_far()), as_json)
            return 0
        report = job.report() if job.record.result else None
    if as_json:
        print_json(job.record.told | {"report": report})
        return 0
    views = [job_view(job.record)]
    if report:
        views += ["", *report_views(job.record, open_report(report))]
    show(console_for(sys.stdout), *views)
    return 0


def _show_events(events: list[EventView], as_json: bool) -> None:
    if as_json:
        print_json({"data": [event.model_dump(mode="json") for event in events]})
        return
    rows = [(str(event.number), event.time.isoformat(), event.type, _said(event)) for event in events]
    show(console_for(sys.stdout), records_table(("number", "time", "type", "what"), rows))


def _said(event: EventView) -> str:
    if event.shard_loss is not None:
        return str(event.shard_loss)
    return ", ".join(f"{name} {value}" for name, value in event.data.items())
