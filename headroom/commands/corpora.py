"""`headroom corpora`."""

import sys
from dataclasses import asdict

import click

from headroom.commands.options import json_option, server_option
from headroom.commands.output import print_json
from headroom.commands.server import connect
from headroom.figures import size
from headroom.rendering import console_for, records_table, show


@click.command("corpora")
@server_option
@json_option
def command(server: str, as_json: bool) -> int:
    """List the uploaded evaluation texts; a job can name one by its id."""
    with connect(server) as client:
        corpora = client.corpora()
    if as_json:
        print_json({"data": [asdict(corpus) for corpus in corpora]})
    elif corpora:
        rows = [(corpus.id, corpus.format, size(corpus.size), corpus.created or "") for corpus in corpora]
        show(console_for(sys.stdout), records_table(("id", "format", "size", "created"), rows))
    else:
        click.echo("No corpora.")
    return 0
