"""`EmbeddedServer`: the whole service on this machine, in one data directory. Computes nothing and prints nothing.

    data_dir/server.lock    held while a server uses the folder
    data_dir/broker.sock    the broker's socket; its data is in data_dir/broker
    data_dir/logs/*.log     what each program wrote
    the rest                belongs to the service (database, corpora, artifacts, cache)

The service is started by the names of its modules: this package imports none of it.
"""

import fcntl
import importlib.util
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx

from headroom.errors import HeadroomError, InvalidArgument
from headroom.local import broker
from headroom.local.service_process import module_command
from headroom.local.supervisor import Program, Supervisor

NEEDED = ("alembic", "celery", "fastapi", "sqlalchemy", "torch", "transformers", "uvicorn")
START_SECONDS = 120.0
POLL_SECONDS = 0.1
WORKER_STOP_SECONDS = 15.0  # more than cancel_grace_seconds: a running job is put back in order


class ServerFailed(HeadroomError):
    """The embedded server did not start, or gave up."""

    default_code = "server_failed"


class EmbeddedServer:
    """Broker, API, one worker and the sweeper. They end with this process, however it ends; jobs then wait.

    `port` 0 takes a free one. Not to be started twice; use it as a context manager or call `stop`.
    """

    def __init__(self, data_dir: Path, models_dir: Path | None, host: str = "127.0.0.1", port: int = 8000) -> None:
        self._data_dir = data_dir.resolve()
        self._models_dir = models_dir.resolve() if models_dir else None
        self._host = host
        self._port = port
        self._lock: IO[str] | None = None
        self._socket: Path | None = None
        self._supervisor: Supervisor | None = None

    @property
    def url(self) -> str:
        """Where the API answers, for a client on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def start(self, timeout: float = START_SECONDS) -> None:
        """Return when jobs can be posted. ServerFailed or InvalidArgument with the reason; nothing is left running."""
        try:
            program = self._check_installation()
            self._take_data_dir()
            self._port = _usable_port(self._host, self._port)
            self._sign_lock()
            self._socket = broker.socket_path(self._data_dir)
            self._supervisor = Supervisor(
                self._programs(program, self._socket), self._environment(self._socket), self._data_dir / "logs"
            )
            self._supervisor.start()
            self._wait_until_ready(time.monotonic() + timeout)
            self._supervisor.mark_well()
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """ServerFailed if a program never ran well and the server has given up."""
        if self._supervisor is not None and self._supervisor.failure is not None:
            raise ServerFailed(f"The server stopped: {self._supervisor.failure}.")

    def stop(self) -> None:
        """End everything in good order. A running job goes back to the queue. May be called again."""
        if self._supervisor is not None:
            self._supervisor.stop()
        if self._socket is not None:
            broker.remove_socket(self._socket, self._data_dir)
            self._socket = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_installation(self) -> str:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise InvalidArgument(f"{', '.join(missing)} not installed; run: pip install 'headroom-lm[serve]'.")
        return broker.find_program()

    def _take_data_dir(self) -> None:
        try:
            (self._data_dir / "broker").mkdir(parents=True, exist_ok=True)
            lock = (self._data_dir / "server.lock").open("a+")
        except OSError as error:
            raise InvalidArgument(f"The data directory {self._data_dir} cannot be used: {error.strerror}.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = _read_signature(lock)
            lock.close()
            raise ServerFailed(
                f"Another server uses {self._data_dir}{owner}; use that one with --server, or another --data-dir."
            ) from None
        self._lock = lock

    def _sign_lock(self) -> None:
        assert self._lock is not None
        self._lock.truncate(0)
        self._lock.write(json.dumps({"pid": os.getpid(), "url": self.url}))
        self._lock.flush()

    def _programs(self, program: str, path: Path) -> list[Program]:
        return [
            Program(
                "broker",
                broker.command(program, path, self._data_dir / "broker"),
                is_ready=lambda: broker.answers(path),
            ),
            Program("migration", module_command("service.adapters.migrate"), runs_once=True),
            Program("api", [*module_command("api.main"), "--host", self._host, "--port", str(self._port)]),
            Program("worker", module_command("workers.main"), stop_seconds=WORKER_STOP_SECONDS),
            Program("sweeper", module_command("workers.sweeper")),
        ]

    def _environment(self, path: Path) -> dict[str, str]:
        own = {
            "HEADROOM_DATA_DIR": str(self._data_dir),
            "HEADROOM_BROKER_URL": broker.broker_url(path),
            "HEADROOM_DRAIN_SECONDS": "0",  # who stops this server waits for it
            "PYTHONUNBUFFERED": "1",  # so that the last line of a log is there after a crash
        }
        if self._models_dir is not None:
            own["HEADROOM_MODELS_DIR"] = str(self._models_dir)
        return dict(os.environ) | own

    def _wait_until_ready(self, deadline: float) -> None:
        answer = "no answer yet"
        with httpx.Client(base_url=self.url, timeout=5.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                self.check()
                try:
                    response = client.get("/readyz", params={"exclude": "disk"})  # a full disk may be freed
                except httpx.TransportError:
                    response = None
                if response is not None and response.status_code == 200:
                    return
                answer = response.text[:300] if response is not None else answer
                time.sleep(POLL_SECONDS)
        raise ServerFailed(f"The server was not ready in time ({answer}); its logs are in {self._data_dir / 'logs'}.")


def _read_signature(lock: IO[str]) -> str:
    lock.seek(0)
    try:
        owner = json.loads(lock.read())
        return f" (process {owner['pid']}, {owner['url']})"
    except (ValueError, KeyError, TypeError):
        return ""  # it has only just started


def _usable_port(host: str, port: int) -> int:
    """The same port, or a free one for 0. InvalidArgument if nothing can listen there."""
    try:
        with _listening(host, port) as listener:
            usable: int = listener.getsockname()[1]
            return usable
    except OSError as error:
        reason = error.strerror or error
        raise InvalidArgument(
            f"Port {port} of {host} cannot be used ({reason}); choose another --port or --host."
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
