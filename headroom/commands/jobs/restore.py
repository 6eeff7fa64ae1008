"""`headroom restore DIR`."""

from pathlib import Path

import click

from headroom.commands.terminal.options import json_option
from headroom.commands.terminal.output import print_json


@click.command("restore")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where to; a new folder.")
@json_option
def command(folder: Path, output: Path, as_json: bool) -> int:
    """Write the dense checkpoint that the sliced one in DIR was made from. Plain transformers loads it."""
    from headroom.loading.restoring import restore

    restore(folder, output)
    if as_json:
        print_json({"output": str(output)})
    else:
        click.echo(f"Dense checkpoint in {output}")
    return 0
