"""The services of docker-compose.yml as processes of this machine: its commands, environment, secrets, health checks.

Only what containers bring is replaced: names of hosts by ports on loopback, paths by temporary folders. PostgreSQL and
the object store are the tests' own servers, the former with the user and the password that the image would have made.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from headroom.local import broker, tether
from tests.postgresql_server import PostgresqlServer
from tests.s3_server import S3Server

ROOT = Path(__file__).parents[1]
START_SECONDS = 150.0
STOP_SECONDS = 60.0
STAND_INS = ("postgres", "objects")  # running already


def load(name: str, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A compose file, interpolated as `docker compose` would with these variables."""
    loaded: dict[str, Any] = interpolated(yaml.safe_load((ROOT / name).read_text()), variables or {})
    return loaded


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1]) or match[2]

    text = re.sub(r"\$\$|\$\{(\w+):-([^}]*)\}", found, value)
    assert "${" not in text, f"{value} is written in a way that this reader does not know"
    return text


def image_environment() -> dict[str, str]:
    """What the Dockerfile sets for both images."""
    runtime = (ROOT / "Dockerfile").read_text().split(" AS runtime\n")[1].split("\nFROM ")[0]
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)", runtime, re.MULTILINE)
    return dict(re.findall(r"(\w+)=(\S+)", block))


class ComposeStack:
    """Started by `up`, and always to be ended by `down`."""

    def __init__(self, folder: Path, models: Path, postgres: PostgresqlServer, objects: S3Server) -> None:
        services = load("docker-compose.yml")["services"]
        self._services = {name: service for name, service in services.items() if "profiles" not in service}
        self._folder = folder
        self._postgres = postgres
        self._objects = objects
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._places = {"api": _free_port(), "redis": _free_port(), "postgres": postgres.port}
        self.url = f"http://127.0.0.1:{self._places['api']}"
        self._paths = {"/data": folder / "data", "/models": models, "/tmp": folder / "tmp"}
        self._paths |= {"/run/secrets": folder / "secrets"}
        for path in (folder / "data", folder / "tmp", folder / "bin", folder / "redis"):
            path.mkdir()
        self._write_wrapper("redis-cli", self._places["redis"])
        subprocess.run(["sh", str(ROOT / "deploy/make-secrets.sh")], cwd=folder, check=True)

    def up(self) -> None:
        """Every service, each after what it depends on is in the state that it waits for."""
        self._prepare_postgres()
        waiting = list(self._services)
        while waiting:
            ready = [name for name in waiting if not set(self._services[name].get("depends_on", {})) & set(waiting)]
            assert ready, f"these wait for each other: {waiting}"
            for name in ready:
                for other, wanted in self._services[name].get("depends_on", {}).items():
                    self._wait_for(other, wanted["condition"])
                if name not in STAND_INS:
                    self.start(name)
                waiting.remove(name)

    def start(self, name: str) -> None:
        service = self._services[name]
        command = [self._local(word) for word in service["command"]]
        if name == "redis":
            command = [broker.find_program(), *command[1:], "--port", str(self._places["redis"]), "--bind", "127.0.0.1"]
            command += ["--dir", str(self._folder / "redis")]
        tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                tethered,
                cwd=self._folder,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self, name: str) -> int:
        """As `docker compose stop` does: TERM, then KILL after a while. The exit code."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def down(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def execute(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec`."""
        return subprocess.run(
            command, cwd=self._folder, env=self.environment(name), capture_output=True, text=True, timeout=120
        )

    def is_healthy(self, name: str) -> bool:
        kind, *test = self._services[name]["healthcheck"]["test"]
        command = ["/bin/sh", "-c", *test] if kind == "CMD-SHELL" else test
        return self.execute(name, *(self._local(word) for word in command)).returncode == 0

    def wait_until_healthy(self, name: str) -> None:
        self._wait_for(name, "service_healthy")

    def log(self, name: str) -> str:
        path = self._folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def environment(self, name: str) -> dict[str, str]:
        """Nothing of the environment of the tests."""
        programs = [self._folder / "bin", Path(sys.executable).parent, self._postgres.programs, "/usr/bin", "/bin"]
        image = {name: self._local(value) for name, value in image_environment().items()}
        own = {key: self._local(str(value)) for key, value in self._services[name].get("environment", {}).items()}
        machine = {
            "PATH": os.pathsep.join(map(str, programs)),
            "HOME": str(self._folder),
            "HOSTNAME": socket.gethostname(),
            "TMPDIR": str(self._paths["/tmp"]),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self._postgres.port),
        }
        return image | own | machine | {"HEADROOM_HUB_ENDPOINT": ""}

    def _local(self, text: str) -> str:
        names = "|".join(self._paths)
        text = re.sub(rf"(?<![\w.])({names})(?![\w-])", lambda found: str(self._paths[found[1]]), text)
        text = text.replace("@postgres:5432", f"@127.0.0.1:{self._places['postgres']}")
        text = text.replace("//redis:6379", f"//127.0.0.1:{self._places['redis']}")
        text = text.replace("http://objects:8333", self._objects.url)
        return re.sub(r"\b8000\b", str(self._places["api"]), text).replace("0.0.0.0", "127.0.0.1")

    def _wait_for(self, name: str, condition: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            process = self._running.get(name)
            code = process.poll() if process else None
            if condition == "service_completed_successfully" and code == 0:
                return
            assert code is None, f"{name} ended with {code}: {self.log(name)}"
            if condition == "service_healthy" and (name == "objects" or self.is_healthy(name)):
                return
            assert time.monotonic() < deadline, f"{name} is not there: {self.log(name)}"
            time.sleep(0.2)

    def _prepare_postgres(self) -> None:
        """What the entry point of the image does, and passwords asked for, which the tests' server does not do."""
        made = self._services["postgres"]["environment"]
        password = Path(self._local(made["POSTGRES_PASSWORD_FILE"])).read_text()
        self._postgres.execute(f"CREATE ROLE {made['POSTGRES_USER']} LOGIN PASSWORD '{password}'")
        self._postgres.execute(f"CREATE DATABASE {made['POSTGRES_DB']} OWNER {made['POSTGRES_USER']}")
        self._postgres.ask_for_password(made["POSTGRES_USER"])

    def _write_wrapper(self, program: str, port: int) -> None:
        found = shutil.which(program)
        assert found is not None, f"{program} is needed for the health check of the broker"
        wrapper = self._folder / "bin" / program
        wrapper.write_text(f'#!/bin/sh\nexec {found} -p {port} "$@"\n')
        wrapper.chmod(0o755)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
