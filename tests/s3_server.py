"""A real S3 server of the tests' own, on loopback (moto's): conditional puts, ranges, multipart uploads, signed links.

It runs in a process of its own, so that it can be stopped, and ends with this one.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from headroom.local import tether

START_SECONDS = 60.0
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class S3Server:
    """Started by `with`."""

    def __init__(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self._port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = log  # one line for each request

    def __enter__(self) -> "S3Server":
        command = [sys.executable, tether.__file__, str(os.getpid()), sys.executable, "-m", "moto.server"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "-H", "127.0.0.1", "-p", str(self._port)], stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self._process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def environment(self) -> dict[str, str]:
        """By which every S3 client finds it."""
        return ENVIRONMENT | {"AWS_ENDPOINT_URL": self.url}

    def make_bucket(self, name: str) -> None:
        answer = httpx.put(f"{self.url}/{name}", trust_env=False)
        assert answer.status_code == 200, answer.text

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def set_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """These AWS variables, and no others that this machine may have."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
