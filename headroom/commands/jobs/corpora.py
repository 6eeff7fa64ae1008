"""`headroom corpora`."""

import sys
from pathlib import Path

import click

from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect
from headroom.views.figures import size
from headroom.views.rendering import console_for, records_table, show


@click.command("corpora")
@click.option("--upload", type=click.Path(path_type=Path), metavar="FILE", help="Upload this one, and list it alone.")
@click.option("--field", default="text", show_default=True, metavar="NAME", help="Holds the text of a JSON line.")
@click.option("--delete", metavar="ID", help="Delete this one first.")
@server_option
@json_option
def command(upload: Path | None, field: str, delete: str | None, server: str, as_json: bool) -> int:
    """List the uploaded evaluation texts; a job can name one by its id."""
    with connect(server) as client:
        if delete:
            client.delete_corpus(delete)
        corpora = [client.upload_corpus(upload, field=field)] if upload else client.corpora()
    if as_json:
        print_json({"data": [corpus.model_dump(mode="json") for corpus in corpora]})
    elif corpora:
        rows = [
            (corpus.id, corpus.format, size(corpus.size), f"{corpus.created:%Y-%m-%d %H:%M:%S} UTC")
            for corpus in corpora
        ]
        show(console_for(sys.stdout), records_table(("id", "format", "size", "created"), rows))
    else:
        click.echo("No corpora.")
    return 0
