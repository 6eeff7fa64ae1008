"""A child process in a session of its own, tied to this process by a pipe. Knows nothing about jobs.

The child reads its standard input: end of file means that this process is gone, however it went.
"""

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

POLL_SECONDS = 0.1
# Operator threads wait for one another; busily, on a core that others use, that takes longer than the work itself.
DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}


class Group(ABC):
    """A leader and every process that it starts."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The id of the leader, and of its group."""

    @abstractmethod
    def wait(self, seconds: float) -> int | None:
        """The leader's return code (negative: the signal that killed it), or None if it still runs after `seconds`."""

    @abstractmethod
    def reap(self) -> int:
        """Wait for the leader's end, for ever; close the pipe."""

    def end(self, grace_seconds: float) -> int:
        """TERM to the whole group, KILL to what is left of it after `grace_seconds`."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while self.wait(0.0) is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self.kill()

    def kill(self) -> int:
        """KILL to every process of the group, also to those that outlived their leader."""
        self._signal(signal.SIGKILL)
        return self.reap()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return  # nobody of the group is left
        except PermissionError:  # macOS says so of a group of zombies
            return


class ProcessGroup(Group):
    """One command and everything it starts."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        variables = DEFAULTS | dict(os.environ if environment is None else environment)
        self._leader = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=variables, start_new_session=True, close_fds=True
        )

    @property
    def pid(self) -> int:
        return self._leader.pid

    def wait(self, seconds: float) -> int | None:
        try:
            return self._leader.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def reap(self) -> int:
        returncode = self._leader.wait()
        if self._leader.stdin is not None:
            self._leader.stdin.close()
        return returncode


def describe_exit(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"
