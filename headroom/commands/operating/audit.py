"""`headroom audit`."""

import sys

import click

from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect
from headroom.views.rendering import console_for, records_table, show

COLUMNS = ("time", "owner", "key_id", "action", "object", "outcome", "address")


@click.command("audit")
@click.option("--owner", help="Only what this owner did.")
@click.option("--action", metavar="NAME", help="Only these, such as job.post or file.download.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.option("--after", type=int, metavar="NUMBER", help="Older than the entry with this number.")
@server_option
@json_option
def command(owner: str | None, action: str | None, limit: int, after: int | None, server: str, as_json: bool) -> int:
    """Show who did what on a server, newest first. Needs a key with the scope admin."""
    with connect(server) as client:
        page = client.audit(owner=owner, action=action, limit=limit, after=after)
    if as_json:
        print_json(page)
    elif page["data"]:
        rows = [(str(entry["number"]), *(str(entry[name] or "") for name in COLUMNS)) for entry in page["data"]]
        show(console_for(sys.stdout), records_table(("number", *COLUMNS), rows))
    else:
        click.echo("No entries.")
    return 0
