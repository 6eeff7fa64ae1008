"""`snapshot_download` of a published repository from our hub, against a plain server that has every answer ready.

ratio: speed of the first over that of the second, medians of runs in turn, the same client for both.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.utils.tqdm import disable_progress_bars

from api.answers import hub_views
from bench.service.published import memory_folder, publish, serve_api, served
from bench.timing import ratio
from service.ports.files import StoredFile
from service.publishing.hub import Commit, Repository

SHARDS = 6
SHARD_MEBIBYTES = 50
SMALL = {"config.json": 0, "tokenizer.json": 1, "README.md": 0}
ROUNDS = 5


def run() -> dict[str, Any]:
    disable_progress_bars()
    files = {f"model-{number:05d}-of-{SHARDS:05d}.safetensors": SHARD_MEBIBYTES for number in range(1, SHARDS + 1)}
    with memory_folder() as folder:
        job, published = publish(folder / "data", files | SMALL)
        manifest = json.loads((published.parent / "manifest.json").read_bytes())
        commit, *_ = Commit.all_of(job, [StoredFile(**entry) for entry in manifest["files"]])
        assert job.repository is not None
        repository = Repository(job.repository, (commit,))
        with served(serve_api, folder / "data") as ours, served(serve_ready, repository, published) as theirs:

            def fetch(port: int, prefix: str) -> None:
                with memory_folder() as local:
                    snapshot_download(
                        repository.id, endpoint=f"http://127.0.0.1:{port}{prefix}", local_dir=local, token=False
                    )

            slower, our_seconds, their_seconds = ratio(
                lambda: fetch(ours, "/hub"), lambda: fetch(theirs, ""), rounds=ROUNDS
            )
    return {
        "bytes": sum(file.size for file in commit.files),
        "files": len(commit.files),
        "ratio": round(1 / slower, 2),
        "hub_seconds": round(our_seconds, 3),
        "static_seconds": round(their_seconds, 3),
    }


def serve_ready(connection: Connection, repository: Repository, folder: Path) -> None:
    """Answers from dictionaries, files by sendfile; knows nothing but this repository."""
    commit = repository.main
    documents = {
        f"/api/models/{repository.id}/revision/main": json.dumps(hub_views.model_info(repository, commit)).encode(),
        f"/api/models/{repository.id}/tree/{commit.id}": json.dumps(hub_views.tree(commit, "", True)).encode(),
    }
    stored = {f"/{repository.id}/resolve/{commit.id}/{file.path}": file for file in commit.files}

    class Ready(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # as uvicorn and nginx have it

        def do_HEAD(self) -> None:
            file = stored[self.path]
            self._head(file.size, {"ETag": f'"{file.sha256}"', "X-Repo-Commit": commit.id})

        def do_GET(self) -> None:
            document = documents.get(self.path.split("?")[0])
            if document is not None:
                self._head(len(document), {"Content-Type": "application/json"})
                self.wfile.write(document)
                return
            self.do_HEAD()
            self.wfile.flush()
            with (folder / stored[self.path].path).open("rb") as opened:
                self.connection.sendfile(opened)

        def _head(self, length: int, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in (headers | {"Content-Length": str(length)}).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ready)
    connection.send(server.server_address[1])
    server.serve_forever()
