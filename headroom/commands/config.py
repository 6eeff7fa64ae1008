"""`headroom config check`. The settings are the service's, so a process of the service reads them."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import click

from headroom.commands.options import json_option
from headroom.commands.output import print_json
from headroom.errors import HeadroomError, InvalidArgument
from headroom.rendering import console_for, records_table, show

BAD_INPUT = 2


@click.group("config")
def command() -> None:
    """Look at the settings of a server."""


@command.command("check")
@json_option
def check(as_json: bool) -> int:
    """Read the HEADROOM_* variables as a server would, and try what they name: folders, database, broker, hub."""
    if importlib.util.find_spec("service") is None:
        raise InvalidArgument("The service is not installed here; run: pip install 'headroom-lm[api]'.")
    # -P: the current folder may hold packages with names like ours.
    asked = subprocess.run(
        [sys.executable, "-P", "-m", "service.adapters.settings_check"], capture_output=True, text=True
    )
    if asked.returncode not in (0, BAD_INPUT):
        last_words = (asked.stderr.strip() or "it said nothing").splitlines()[-1]
        raise HeadroomError(f"The check itself failed: {last_words}.", "server_failed")
    findings: list[dict[str, Any]] = [json.loads(line) for line in asked.stdout.splitlines()]
    if as_json:
        print_json({"ok": asked.returncode == 0, "checks": findings})
    else:
        rows = [(finding["name"], "ok" if finding["ok"] else "WRONG", finding["detail"]) for finding in findings]
        show(console_for(sys.stdout), records_table(("what", "", "found"), rows))
    return asked.returncode
