"""`headroom webhooks ID`."""

import sys
from typing import Any

import click

from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect
from headroom.views.rendering import console_for, records_table, show


@click.command("webhooks")
@click.argument("job_id", metavar="ID")
@click.option("--replay", type=click.IntRange(min=1), metavar="NUMBER", help="Have this one sent again first.")
@server_option
@json_option
def command(job_id: str, replay: int | None, server: str, as_json: bool) -> int:
    """List the messages of a job's webhook and how each went; a replay is a line of its own."""
    with connect(server) as client:
        job = client.job(job_id)
        if replay is not None:
            job.replay_delivery(replay)
        deliveries = job.deliveries()
    if as_json:
        print_json({"data": deliveries})
    elif deliveries:
        heads = ("number", "message", "status", "attempts", "last attempt", "answer")
        show(console_for(sys.stdout), records_table(heads, [_row(one) for one in deliveries]))
    else:
        click.echo("No messages: the job has no webhook, or nothing to tell yet.")
    return 0


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    again = f", again {one['replay_of']}" if one["replay_of"] else ""
    answer = one["error"] or (str(one["response_status"]) if one["response_status"] else "")
    number, attempts = str(one["number"]), str(one["attempts"])
    return number, one["type"] + again, one["status"], attempts, one["last_attempt"] or "", answer
