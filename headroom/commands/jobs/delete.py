"""`headroom delete ID`."""

import click

from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect


@click.command("delete")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@server_option
@json_option
def command(job_ids: tuple[str, ...], server: str, as_json: bool) -> int:
    """Remove jobs that have ended, with their reports, files and commits in the hub. There is no way back."""
    with connect(server) as client:
        for job_id in job_ids:
            client.job(job_id).delete()
            if not as_json:
                click.echo(f"{job_id} is deleted.")
    if as_json:
        print_json({"deleted": list(job_ids)})
    return 0
