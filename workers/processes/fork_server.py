"""`python -m workers.processes.fork_server SOCKET`: the processes of jobs, forked from one that has torch loaded.

Loading torch and transformers takes seconds; a fork of a process that has them takes milliseconds. The server runs no
operator and touches no GPU, so that what it forks starts as a fresh interpreter would. One per worker, started by
workers/main.py; what it forks is watched by workers/attempts/forked_group.py, through the connection that asked for it.

A request is one JSON object {"module", "arguments", "environment"} with a descriptor that becomes standard input. The
answers are JSON lines: {"pid": int}; once the process has ended, {"returncode": int}. Ends with its own standard input.
"""

import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from setproctitle import getproctitle, setproctitle

# What a job loads in its first seconds. Nothing of it may start a thread, or as much as ask for a device: CUDA does not
# outlive a fork. So not transformers.modeling_utils, which asks which accelerator is here, but what it loads first.
PRELOADED = (
    "torch._dynamo",
    "transformers.loss.loss_utils",
    "service.compression.jobs.engines",
    "service.compression.sharding.shard_helper",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "workers.processes.job_process",
    "workers.processes.shard_process",
)
MAX_REQUEST_BYTES = 1 << 20
INPUT = 0


def main(arguments: Sequence[str]) -> None:
    """SOCKET, then modules to load in place of PRELOADED."""
    path, modules = arguments[0], tuple(arguments[1:]) or PRELOADED
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{path}.new")
    getproctitle()  # finds where the title stands, while the environment still lies behind it
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when it is loaded; a log is no terminal
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # meant for the worker, whose end is told by standard input
    listener.listen()  # who asks while modules are loading waits for that, and no longer than by itself
    os.rename(f"{path}.new", path)
    gc.disable()  # what modules define stays: to look through it while they load took a fifth of the time
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # and it is never looked through again: its pages stay shared
    gc.enable()
    _serve(listener)


def _serve(listener: socket.socket) -> None:
    children: dict[int, socket.socket] = {}
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watched: list[Any] = [listener, woken, INPUT]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if INPUT in ready and not os.read(INPUT, 1):
            return  # the worker is gone; each job sees by its own standard input that its attempt is
        if woken in ready:
            os.read(woken, 4096)
        _tell_ended(children)
        if listener in ready:
            connection, _ = listener.accept()
            request = _receive(connection)
            if request is not None:
                _start(*request, connection, [listener.fileno(), woken, waker], children)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], int] | None:
    """The request and its descriptor; None if the other side left or sent neither: both are closed then."""
    connection.settimeout(5.0)
    descriptors: list[int] = []
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 1)
        while data and not data.endswith(b"\n"):
            more = connection.recv(MAX_REQUEST_BYTES)
            if not more:
                break
            data += more
        return json.loads(data), descriptors[0]
    except (OSError, ValueError, IndexError):
        for descriptor in descriptors:
            os.close(descriptor)
        connection.close()
        return None


def _start(
    request: dict[str, Any],
    descriptor: int,
    connection: socket.socket,
    own: list[int],
    children: dict[int, socket.socket],
) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            for number in [*own, connection.fileno(), *(other.fileno() for other in children.values())]:
                os.close(number)
            os.dup2(descriptor, INPUT)
            os.close(descriptor)
            _become(request)
        except BaseException:  # nothing of the server may run in a child
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(descriptor)
    children[pid] = connection
    _tell(connection, {"pid": pid})


def _become(request: dict[str, Any]) -> None:
    """Run a module's `main`, as `python -m` would in a session of its own. Never returns."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    module, arguments = request["module"], request["arguments"]
    setproctitle(" ".join(["python", "-m", module, *arguments]))
    code: Any = 0
    try:
        importlib.import_module(module).main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _tell_ended(children: dict[int, socket.socket]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            connection = children.pop(pid)
            _tell(connection, {"returncode": os.waitstatus_to_exitcode(status)})
            connection.close()


def _tell(connection: socket.socket, message: dict[str, int]) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return  # who asked has gone; the process finds its standard input closed


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the worker waits for this, and gains nothing from all that is loaded being taken down
