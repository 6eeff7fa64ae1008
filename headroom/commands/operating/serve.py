"""`headroom serve`."""

import time
from pathlib import Path

import click

from headroom.commands.terminal.options import data_dir_option, json_option, models_dir_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.signals import signals_as_interrupts

CHECK_SECONDS = 1.0


@click.command("serve")
@click.option("--host", envvar="HEADROOM_HOST", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    envvar="HEADROOM_PORT",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@data_dir_option
@models_dir_option
@json_option
def command(host: str, port: int, data_dir: str, models_dir: str | None, as_json: bool) -> int:
    """Run API, worker, sweeper and broker on this machine, until Ctrl-C.

    Jobs live in the data directory: after a crash, start it again and they go on.
    """
    from headroom.local.embedded import EmbeddedServer

    models = Path(models_dir) if models_dir else None
    with signals_as_interrupts(), EmbeddedServer(Path(data_dir), models, host, port) as server:
        if as_json:
            print_json({"url": server.url, "data_dir": data_dir, "models_dir": models_dir})
        else:
            click.echo(f"Headroom is ready at {server.url} (data in {data_dir}; Ctrl-C stops it)")
        try:
            while True:
                server.check()
                time.sleep(CHECK_SECONDS)
        except KeyboardInterrupt:
            return 0
