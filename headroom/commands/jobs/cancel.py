"""`headroom cancel ID`."""

import click

from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect


@click.command("cancel")
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def command(job_id: str, server: str, as_json: bool) -> int:
    """Stop a job. One that runs ends within seconds; canceling twice does no harm."""
    with connect(server) as client:
        job = client.job(job_id).cancel()
    if as_json:
        print_json(job.record.told)
    else:
        click.echo(f"{job.id} is {job.status}.")
    return 0
