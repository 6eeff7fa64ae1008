"""Processes of the service as a team runs them, for tests: they end with the test that started them."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import httpx
import psutil

from headroom.local import tether


class Fleet:
    """The processes of the service, each with a data directory of its own, or all with one (`shared`)."""

    def __init__(self, folder: Path, environment: dict[str, str], shared: Path | None = None) -> None:
        self._folder = folder
        self._environment = environment
        self._shared = shared
        self._logs: list[IO[bytes]] = []
        self.processes: dict[str, psutil.Popen] = {}

    def start(self, name: str, command: list[str]) -> None:
        """A command that is killed with this process."""
        self._logs.append((self._folder / f"{name}.log").open("ab"))
        data = self._shared or self._folder / name
        own = {"HEADROOM_DATA_DIR": str(data), "HEADROOM_MODELS_DIR": str(data / "models")}
        self.processes[name] = psutil.Popen(
            [sys.executable, tether.__file__, str(os.getpid()), *command],
            env=os.environ | self._environment | own,
            cwd=self._folder,
            stdout=self._logs[-1],
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def module(self, name: str, module: str, *arguments: str) -> None:
        self.start(name, [sys.executable, "-P", "-m", module, *arguments])

    def stop(self) -> None:
        everything = [one for process in self.processes.values() for one in (process, *children_of(process))]
        for process in self.processes.values():
            process.terminate()
        _, alive = psutil.wait_procs(everything, timeout=20)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)
        for log in self._logs:
            log.close()

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in self._folder.glob("*.log"))


def children_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def wait_until_ready(client: httpx.Client, fleet: Fleet) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, fleet.logs()
        time.sleep(0.2)
