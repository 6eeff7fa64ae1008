"""Our download route against nginx with sendfile: the same file of 1 GiB, the same client, on loopback.

ratio: speed of the first over that of the second, medians of runs in turn.
"""

import http.client
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.service.published import memory_folder, publish, serve_api, served
from bench.timing import ratio

MEBIBYTES = 1024
NAME = "model.safetensors"
ROUNDS = 5
CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def run() -> dict[str, Any]:
    if shutil.which("nginx") is None:
        raise SystemExit("bench download compares with nginx, which is not on this machine (Debian: apt install nginx)")
    with memory_folder() as folder:
        job, published = publish(folder / "data", {NAME: MEBIBYTES})
        with served(serve_api, folder / "data") as ours, nginx(published, folder) as theirs:
            slower, our_seconds, their_seconds = ratio(
                lambda: fetch(ours, f"/v1/jobs/{job.id}/files/{NAME}"), lambda: fetch(theirs, f"/{NAME}"), rounds=ROUNDS
            )
    return {
        "bytes": MEBIBYTES << 20,
        "ratio": round(1 / slower, 2),
        "seconds": round(our_seconds, 3),
        "nginx_seconds": round(their_seconds, 3),
    }


def fetch(port: int, path: str) -> None:
    """Read a file and throw it away."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200, response.status
    buffer, received = memoryview(bytearray(1 << 20)), 0
    while count := response.readinto(buffer):
        received += count
    connection.close()
    assert received == MEBIBYTES << 20


@contextmanager
def nginx(root: Path, folder: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, root=root, port=port), encoding="utf-8")
    process = subprocess.Popen(["nginx", "-c", str(configuration)])
    try:
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
