"""A process group whose leader was forked by the fork server of this worker (workers/processes/fork_server.py).

`start_module` is how an attempt starts its processes: forked where there is a server, a new interpreter otherwise.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from workers.attempts.process_group import DEFAULTS, Group, ProcessGroup

# Where the server of this worker listens. Set by workers/main.py for the processes below it.
SOCKET_VARIABLE = "HEADROOM_FORK_SOCKET"
ANSWER_SECONDS = 30.0  # a server that is still loading answers when it has; longer than that, it is not well

logger = logging.getLogger(__name__)


def start_module(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Group:
    """`python -m module arguments` in a session of its own."""
    path = environment.get(SOCKET_VARIABLE)
    if path:
        try:
            return ForkedGroup(path, module, arguments, environment)
        except (OSError, ValueError) as error:
            logger.warning("the fork server does not answer (%s): the process starts by itself", error)
    # -P: the current folder may hold packages with names like ours.
    return ProcessGroup([sys.executable, "-P", "-m", module, *arguments], environment)


def wait_until_loaded(environment: Mapping[str, str]) -> None:
    """Return once the fork server of this worker can start a process, or cannot be asked; at once where there is none.

    To be called before a job is claimed: a lease may run out, on a busy machine, in the time that loading takes.
    """
    path = environment.get(SOCKET_VARIABLE)
    if not path:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(path)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # the server hangs up on who asks for nothing, when it comes to it


class ForkedGroup(Group):
    """Raises OSError if the server is gone, ValueError if it sends what is no answer."""

    def __init__(self, path: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = b""
        self._returncode: int | None = None
        given, self._pipe = os.pipe()
        try:
            self._connection.settimeout(ANSWER_SECONDS)
            self._connection.connect(path)
            request = {
                "module": module,
                "arguments": list(arguments),
                "environment": {**DEFAULTS, **environment},
            }
            socket.send_fds(self._connection, [json.dumps(request).encode() + b"\n"], [given])
            answer = self._answer()
            if answer is None:
                raise ConnectionResetError("it closed the connection")
            self._pid = int(answer["pid"])
        except BaseException:
            self._connection.close()
            os.close(self._pipe)
            raise
        finally:
            os.close(given)

    @property
    def pid(self) -> int:
        return self._pid

    def wait(self, seconds: float) -> int | None:
        """The exit code, once there is one. When the server died its process is killed, and counts as killed."""
        if self._returncode is None:
            self._connection.settimeout(max(seconds, 0.001))
            try:
                answer = self._answer()
            except TimeoutError:
                return None
            except OSError:
                answer = None
            if answer is None:
                self._signal(signal.SIGKILL)
            self._returncode = -int(signal.SIGKILL) if answer is None else answer["returncode"]
        return self._returncode

    def reap(self) -> int:
        while (returncode := self.wait(60.0)) is None:
            pass
        self._connection.close()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        return returncode

    def _answer(self) -> dict[str, int] | None:
        """The next line that the server sends; None at its end."""
        while b"\n" not in self._received:
            more = self._connection.recv(4096)
            if not more:
                return None
            self._received += more
        line, self._received = self._received.split(b"\n", 1)
        answer: dict[str, int] = json.loads(line)
        return answer


class ForkServer:
    """The server as a child of this process; ends with it, however it goes."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headroom-fork-", ignore_cleanup_errors=True)  # mode 0700
        self.path = str(Path(self._folder.name) / "socket")
        command = [sys.executable, "-P", "-m", "workers.processes.fork_server", self.path, *modules]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=DEFAULTS | dict(os.environ))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()
