"""`headroom models` and `headroom models import`."""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect
from headroom.commands.terminal.signals import signals_as_interrupts
from headroom.views.rendering import console_for, records_table, show


@click.group("models", invoke_without_command=True)
@server_option
@json_option
@click.pass_context
def command(context: click.Context, server: str, as_json: bool) -> int:
    """List the models that the server has on its disk, and those that it made."""
    if context.invoked_subcommand:
        return 0
    with connect(server) as client:
        models = client.models()
    if as_json:
        print_json({"data": [model.model_dump(mode="json") for model in models]})
    elif models:
        rows = [(model.id, model.kind, model.repository or "", model.job_id or "") for model in models]
        show(console_for(sys.stdout), records_table(("id", "kind", "repository", "job"), rows))
    else:
        click.echo("No models on the server; ids of hub models are fetched when a job names them.")
    return 0


@command.command("import")
@click.argument("file", metavar="FILE.gguf", type=click.Path(path_type=Path))
@click.option("--as", "model_id", required=True, metavar="NS/NAME", help="What the model is called from now on.")
@click.option(
    "--models-dir",
    envvar="HEADROOM_MODELS_DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where local models are; this one becomes DIR/<ns>/<name>.",
)
@click.option("--dtype", default="bfloat16", show_default=True, metavar="NAME", help="Of the dequantised weights.")
@json_option
def import_command(file: Path, model_id: str, models_dir: Path, dtype: str, as_json: bool) -> int:
    """Make a model folder from a GGUF file, weights dequantised, checked by loading it.

    Needs pip install 'headroom-lm[gguf]', and an architecture whose GGUF files transformers reads.
    """
    from headroom.loading.gguf_import import import_gguf

    with signals_as_interrupts():
        made = import_gguf(file, model_id, models_dir, dtype, lambda step: click.echo(f"{step} ...", err=True))
    if as_json:
        print_json(asdict(made) | {"folder": str(made.folder)})
    else:
        click.echo(f"{made.id}: {made.architecture}, {made.parameters:,} parameters, {made.dtype}, in {made.folder}")
    return 0
