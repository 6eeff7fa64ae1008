"""`headroom keys`. Keys are rows of the service's database, so a process of the service writes them."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from headroom.commands.terminal.options import data_dir_option, json_option
from headroom.commands.terminal.output import print_json
from headroom.errors import HeadroomError
from headroom.local.service_process import ask_service, failure_of
from headroom.views.rendering import console_for, records_table, show

SCOPES = ("jobs:read", "jobs:write", "artifacts:read", "admin")
BAD_INPUT = 2


@click.group("keys")
def command() -> None:
    """Make, list and revoke the keys of a server. Run it where the server's database and settings are."""


@command.command("create")
@click.argument("name")
@click.option("--owner", required=True, help="Whose jobs and corpora the key sees: a person, a team, a pipeline.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=SCOPES[:3],
    show_default=True,
    help="What the key may do; may be repeated. admin: everything, of every owner.",
)
@click.option("--expires-in", metavar="PERIOD", help="Such as 12h or 90d; otherwise until it is revoked.")
@data_dir_option
@json_option
def create(name: str, owner: str, scopes: tuple[str, ...], expires_in: str | None, data_dir: str, as_json: bool) -> int:
    """Make a key. Its secret is shown once: it is not stored anywhere."""
    arguments = ["create", f"--name={name}", f"--owner={owner}", *(f"--scope={scope}" for scope in scopes)]
    if expires_in:
        arguments.append(f"--expires-in={expires_in}")
    key = _ask(arguments, data_dir)
    if as_json:
        print_json(key)
    else:
        until = key["expires"] or "it is revoked"
        click.echo(f"{key['id']} of {key['owner']}, for {', '.join(key['scopes'])}, until {until}.", file=sys.stderr)
        click.echo("Keep this secret; it is not shown again:", file=sys.stderr)
        click.echo(key["secret"])
    return 0


@command.command("list")
@data_dir_option
@json_option
def list_keys(data_dir: str, as_json: bool) -> int:
    """List all keys, newest first, without their secrets."""
    keys = _ask(["list"], data_dir)["data"]
    if as_json:
        print_json({"data": keys})
    elif keys:
        rows = [(key["id"], key["name"], key["owner"], " ".join(key["scopes"]), _state(key)) for key in keys]
        show(console_for(sys.stdout), records_table(("id", "name", "owner", "scopes", "state"), rows))
    else:
        click.echo("No keys.")
    return 0


@command.command("revoke")
@click.argument("key_id", metavar="ID")
@data_dir_option
@json_option
def revoke(key_id: str, data_dir: str, as_json: bool) -> int:
    """End a key and the browser sessions opened with it, at once and for good."""
    key = _ask(["revoke", "--", key_id], data_dir)
    if as_json:
        print_json(key)
    else:
        click.echo(f"{key['id']} of {key['owner']} is revoked.")
    return 0


def _state(key: dict[str, Any]) -> str:
    if key["revoked"]:
        return f"revoked {key['revoked'][:10]}"
    if not key["valid"]:
        return f"expired {key['expires'][:10]}"
    return f"used {key['last_used'][:10]}" if key["last_used"] else "never used"


def _ask(arguments: list[str], data_dir: str) -> dict[str, Any]:
    done = ask_service("service.adapters.keys_admin", arguments, Path(data_dir))
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        if done.returncode == BAD_INPUT:  # argparse refused an argument; its last line says which, and why
            raise click.UsageError(done.stderr.strip().splitlines()[-1].rpartition("error: ")[2]) from None
        raise failure_of(done, "The command on the database") from None
    if "error" in answer:
        raise HeadroomError(answer["error"]["message"], answer["error"]["code"])
    return answer
