"""The API on a real port over stores of its own, with repositories that tests publish. Loads no tensors."""

import shutil
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from anyio import CapacityLimiter

from api.app import create_app
from api.dependencies import Services
from headroom.contract.answers.job import Status
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.remote.local_models import LocalModels
from service.records.job import Job
from tests.factories import add_running_job, make_recipe
from tests.in_memory.access import MemoryHolds, MemoryKeys
from tests.in_memory.audit import MemoryAudit
from tests.in_memory.job_store import MemoryJobStore
from tests.in_memory.queue import MemoryQueue


def now() -> datetime:
    return datetime.now(UTC)


def make_services(folder: Path) -> Services:
    return Services(
        store=MemoryJobStore(now),
        queue=MemoryQueue(),
        artifacts=DirectoryArtifacts(folder / "artifacts"),
        keys=MemoryKeys(now),
        holds=MemoryHolds(now),
        audit=MemoryAudit(),
        corpora=DirectoryCorpora(folder / "corpora", 100_000, now),
        models=LocalModels(folder / "models"),
        clock=now,
        data_dir=folder,
        max_body_bytes=10_000,
        max_corpus_bytes=100_000,
        uploads=CapacityLimiter(2),
        is_open=True,
    )


def publish(services: Services, source: Path, ratio: float = 0.3, owner: str = "local", **recipe: Any) -> Job:
    """A job that has succeeded, with the files of a folder."""
    job = add_running_job(services.store, owner=owner, recipe=make_recipe(**recipe))
    shutil.copytree(source, services.artifacts.staging(job.id, 1), dirs_exist_ok=True)
    files = services.artifacts.publish(job.id, 1)
    size = sum(file.size for file in files)
    return services.store.finish(job.id, 1, Status.SUCCEEDED, {"ratio": ratio}, None, size)


class HubServer:
    """uvicorn in a thread, as a context manager; `url` is that of the hub."""

    def __init__(self, services: Services) -> None:
        config = uvicorn.Config(create_app(services), port=0, log_level="warning")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/hub"
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)


class CuttingProxy:
    """Passes TCP on to a port, and cuts the first connection that has carried `limit` bytes back. As context manager.

    `asked`: what clients sent.
    """

    def __init__(self, port: int, limit: int) -> None:
        self._port, self._left = port, limit
        self.asked = b""
        self.has_cut = False
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> "CuttingProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._connections += [client, server]
                for target, ends in ((self._pass_on, (client, server)), (self._pass_back, (server, client))):
                    self._threads.append(threading.Thread(target=target, args=ends, daemon=True))
                    self._threads[-1].start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), server:
            while data := client.recv(1 << 16):
                self.asked += data
                server.sendall(data)

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError), client:
            while data := server.recv(1 << 16):
                client.sendall(data)
                self._left -= len(data)
                if self._left < 0 and not self.has_cut:
                    self.has_cut = True
                    client.shutdown(socket.SHUT_RDWR)
                    return
