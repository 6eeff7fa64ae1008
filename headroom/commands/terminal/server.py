"""The server that a command talks to: the one that was named, or an embedded one for the time of the command."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from headroom.client.client import Client
from headroom.views.rendering import console_for

KEY = "headroom.client.key"  # in the context of the command


def connect(url: str) -> Client:
    """A client with the key of `--key`, if that was given."""
    return Client(url, click.get_current_context().meta.get(KEY))


@contextmanager
def server_for(server: str | None, data_dir: Path, models_dir: Path | None) -> Iterator[str]:
    """The URL of the named server, or of an embedded one that stops with the block."""
    if server is not None:
        yield server
        return
    from headroom.local.embedded import EmbeddedServer

    embedded = EmbeddedServer(data_dir, models_dir, "127.0.0.1", 0)
    with console_for(sys.stderr).status("starting the embedded service"):
        embedded.start()
    try:
        yield embedded.url
    finally:
        embedded.stop()
