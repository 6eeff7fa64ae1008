"""`headroom backup`. Database and files are the service's, so a process of the service copies them."""

import json
from pathlib import Path

import click

from headroom.commands.terminal.options import data_dir_option, json_option
from headroom.commands.terminal.output import print_json
from headroom.local.service_process import ask_service, failure_of


@click.command("backup")
@click.argument("folder", type=click.Path(path_type=Path))
@data_dir_option
@json_option
def command(folder: Path, data_dir: str, as_json: bool) -> int:
    """Copy the server's database and files to a new FOLDER, also while it runs.

    To restore, serve the copy: headroom serve --data-dir FOLDER. Local models, caches and logs are left out.
    """
    asked = ask_service("service.adapters.backup", [str(folder.absolute())], Path(data_dir))
    if asked.returncode != 0:
        raise failure_of(asked, "The backup")
    copied = json.loads(asked.stdout)
    if as_json:
        print_json(copied | {"folder": str(folder)})
    else:
        click.echo(
            f"{folder}: a database of {copied['database_bytes']:,} bytes, the files of {copied['published']} jobs, "
            f"{copied['corpora']} corpora"
        )
    return 0
