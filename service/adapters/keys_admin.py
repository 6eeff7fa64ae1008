"""`python -m service.adapters.keys_admin`: make, list and revoke keys in the database of the settings.

What `headroom keys` runs: the command line knows the service by the names of its modules only. Prints one JSON object;
a refusal is one too, with exit code 2 for what the caller can change and 1 for the rest.
"""

import argparse
import json
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from service.adapters.sql.audit import SqlAudit
from service.adapters.sql.database import Database
from service.adapters.sql.job_store import SqlJobStore
from service.adapters.sql.keys import SqlKeys
from service.foundation.errors import InfrastructureError, ServiceError
from service.foundation.settings import Settings
from service.records.audit import AuditEntry
from service.records.callers import OWNER, Key, Scope, digest_of, new_secret

PERIOD = re.compile(r"([1-9][0-9]{0,4})([hd])")


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        settings = Settings()
    except ValidationError as error:
        sys.exit(f"A setting is not valid: {error}")
    database = Database(settings.database)
    try:
        SqlJobStore(database, _utc_now).ping()  # its message says what to run where the schema is missing
        answer = options.run(SqlKeys(database, _utc_now), options)
        if options.action:
            entry = AuditEntry(_utc_now(), options.action, answer["id"], "ok", address="command line")
            SqlAudit(database).append(entry)
    except ServiceError as error:
        sys.stdout.write(json.dumps({"error": {"code": error.code, "message": error.message}}) + "\n")
        sys.exit(1 if isinstance(error, InfrastructureError) else 2)
    finally:
        database.close()
    sys.stdout.write(json.dumps(answer) + "\n")


def create(keys: SqlKeys, options: argparse.Namespace) -> dict[str, Any]:
    """The only place where a secret is shown; only its digest is stored."""
    key_id, secret = new_secret()
    now = _utc_now()
    expires = now + options.expires_in if options.expires_in else None
    key = Key(key_id, options.name, options.owner, frozenset(options.scopes), now, expires)
    keys.add(key, digest_of(secret))
    return _view(key) | {"secret": secret}


def list_keys(keys: SqlKeys, options: argparse.Namespace) -> dict[str, Any]:
    return {"data": [_view(key) for key in keys.all()]}


def revoke(keys: SqlKeys, options: argparse.Namespace) -> dict[str, Any]:
    return _view(keys.revoke(options.id))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.adapters.keys_admin")
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("create")
    making.add_argument("--name", required=True, type=_name)
    making.add_argument("--owner", required=True, type=_owner)
    making.add_argument("--scope", dest="scopes", action="append", required=True, type=Scope)
    making.add_argument("--expires-in", type=_period)
    making.set_defaults(run=create, action="key.create")
    commands.add_parser("list").set_defaults(run=list_keys, action=None)
    revoking = commands.add_parser("revoke")
    revoking.add_argument("id")
    revoking.set_defaults(run=revoke, action="key.revoke")
    return parser


def _name(text: str) -> str:
    if not 0 < len(text) <= 200 or not text.isprintable():
        raise argparse.ArgumentTypeError("a name has 1 to 200 printable characters")
    return text


def _owner(text: str) -> str:
    if not OWNER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: an owner is 1 to 64 of a-z, 0-9, '.', '_' and '-'")
    return text


def _period(text: str) -> timedelta:
    match = PERIOD.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: write hours or days, such as 12h or 90d")
    return timedelta(hours=int(match[1])) if match[2] == "h" else timedelta(days=int(match[1]))


def _view(key: Key) -> dict[str, Any]:
    now = _utc_now()
    times = {name: time and time.isoformat() for name, time in asdict(key).items() if name in TIMES}
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": sorted(key.scopes),
        "valid": key.is_valid(now),
        **times,
    }


TIMES = ("created", "expires", "revoked", "last_used")


def _utc_now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
