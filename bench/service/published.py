"""The API with its real adapters in a process of its own, over files that a job is made to have published."""

import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from api.answers.zero_copy import ZeroCopyProtocol
from api.main import build_app, build_services
from headroom.contract.answers.job import Status
from headroom.contract.compress import CompressRecipe
from service.adapters.migrate import upgrade
from service.foundation.settings import Settings
from service.records.job import Job, new_job_id

BLOCK = os.urandom(1 << 20)


def write_file(path: Path, mebibytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(BLOCK)


def publish(data_dir: Path, files: dict[str, int]) -> tuple[Job, Path]:
    """A job that has succeeded, with files of these sizes in MiB; and the folder where they lie."""
    settings = Settings(data_dir=data_dir)
    upgrade(settings.database)
    services = build_services(settings)
    recipe = CompressRecipe.model_validate({"model": "acme/large", "corpus": "corpus_" + "0" * 32})
    job = Job(new_job_id(), recipe, datetime.now(UTC))
    services.store.add(job)
    services.store.claim(job.id, "bench", 600)
    staging = services.artifacts.staging(job.id, 1)
    for name, mebibytes in files.items():
        write_file(staging / name, mebibytes)
    services.artifacts.publish(job.id, 1)
    done = services.store.finish(job.id, 1, Status.SUCCEEDED, {"ratio": 0.3}, None)
    services.store.close()
    with services.artifacts.open(job.id, next(iter(files))) as file:
        return done, Path(file.name).parent


@contextmanager
def served(serve: Callable[..., None], *arguments: Any) -> Iterator[int]:
    """Run `serve(connection, *arguments)`, which sends the port it listens on, until the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *arguments))
    process.start()
    theirs.close()  # so that a server which cannot start is an EOFError here, not a wait without end
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def serve_api(connection: Connection, data_dir: Path) -> None:
    serve(connection, build_app(Settings(data_dir=data_dir)))


def serve(connection: Connection, app: FastAPI) -> None:
    # TCP by name, as where uvicorn binds itself: else asyncio leaves Nagle's algorithm on, and a body waits for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    config = uvicorn.Config(app, http=ZeroCopyProtocol, log_level="warning", access_log=False)
    connection.send(listener.getsockname()[1])
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A temporary folder, in memory where the machine has such a place: disks are not what is measured."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)
