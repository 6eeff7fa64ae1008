"""`headroom health`."""

import sys

import click

from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect
from headroom.views.rendering import console_for, records_table, show


@click.command("health")
@server_option
@json_option
def command(server: str, as_json: bool) -> int:
    """Tell whether a job posted now would run, and for whom the server takes you. Exit code 1 if it would not."""
    with connect(server) as client:
        state, session = client.readiness(), client.session()
    if as_json:
        print_json(state | {"session": session})
    else:
        rows = [(name, "ok" if check["ok"] else "FAILS", check["detail"]) for name, check in state["checks"].items()]
        who = "everybody: the server is open" if session["open"] else session["owner"] or "nobody: it wants a key"
        show(console_for(sys.stdout), records_table(("part", "", "says"), [*rows, ("you", "", who)]))
    return 0 if state["ready"] else 1
