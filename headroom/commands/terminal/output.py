"""What commands print: one JSON object or text on stdout; errors and progress on stderr."""

import json
import sys
from typing import Any

import click

from headroom.views.figures import printable


def print_json(value: Any) -> None:
    """The only thing on stdout under --json."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(code: str, message: str) -> None:
    """`error [code]: message` as one line, in red on a terminal."""
    label = click.style(f"error [{printable(code)}]:", fg="red", bold=True)
    click.echo(f"{label} {printable(' '.join(message.split()))}", file=sys.stderr)
