"""`headroom models`."""

import sys
from dataclasses import asdict

import click

from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect
from headroom.views.rendering import console_for, records_table, show


@click.command("models")
@server_option
@json_option
def command(server: str, as_json: bool) -> int:
    """List the models that the server has on its disk, and those that it made."""
    with connect(server) as client:
        models = client.models()
    if as_json:
        print_json({"data": [asdict(model) for model in models]})
    elif models:
        rows = [(model.id, model.kind, model.repository or "", model.job_id or "") for model in models]
        show(console_for(sys.stdout), records_table(("id", "kind", "repository", "job"), rows))
    else:
        click.echo("No models on the server; ids of hub models are fetched when a job names them.")
    return 0
