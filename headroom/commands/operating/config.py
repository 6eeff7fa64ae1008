"""`headroom config check`. The settings are the service's, so a process of the service reads them."""

import json
import sys
from typing import Any

import click

from headroom.commands.terminal.options import json_option
from headroom.commands.terminal.output import print_json
from headroom.local.service_process import ask_service, failure_of
from headroom.views.rendering import console_for, records_table, show

BAD_INPUT = 2


@click.group("config")
def command() -> None:
    """Look at the settings of a server."""


@command.command("check")
@json_option
def check(as_json: bool) -> int:
    """Read the HEADROOM_* variables as a server would, and try what they name: folders, database, broker, hub."""
    asked = ask_service("service.adapters.settings_check")
    if asked.returncode not in (0, BAD_INPUT):
        raise failure_of(asked, "The check itself")
    findings: list[dict[str, Any]] = [json.loads(line) for line in asked.stdout.splitlines()]
    if as_json:
        print_json({"ok": asked.returncode == 0, "checks": findings})
    else:
        rows = [(finding["name"], "ok" if finding["ok"] else "WRONG", finding["detail"]) for finding in findings]
        show(console_for(sys.stdout), records_table(("what", "", "found"), rows))
    return asked.returncode
