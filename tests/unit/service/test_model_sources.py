"""Local models, a real small hub over HTTP on loopback, and both in a chain."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.adapters.remote.chained_models import ChainedModels, open_models
from service.adapters.remote.hub_models import HubModels
from service.adapters.remote.local_models import LocalModels
from service.foundation.errors import (
    CorruptCheckpoint,
    DiskFull,
    HubUnavailable,
    InvalidModelId,
    JobCanceled,
    ModelNotFound,
    ModelTooLarge,
    UnsafeModel,
)
from service.foundation.settings import Settings
from tests.factories import write_model_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TinyHub:
    """One folder of repositories, with the routes and headers that huggingface_hub needs. `log`: what was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[str] = []
        self.status = 200
        routes = [
            Route("/api/models/{ns}/{name}", self.info),
            Route("/api/models/{ns}/{name}/revision/{revision}", self.info),
            Route("/api/models/{ns}/{name}/tree/{revision}", self.tree),
            Route("/{ns}/{name}/resolve/{revision}/{path:path}", self.resolve, methods=["GET", "HEAD"]),
        ]
        self.server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run)

    def start(self) -> str:
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def folder(self, request: Request) -> Path | None:
        """The repository asked for, with the revisions `main` and the commit."""
        self.log.append(f"{request.method} {request.url.path}")
        folder = self.root / request.path_params["ns"] / request.path_params["name"]
        return folder if folder.is_dir() else None

    def refusal(self, request: Request, folder: Path | None) -> Response | None:
        if self.status != 200:
            return JSONResponse({"error": "away"}, status_code=self.status)
        if folder is None:
            return JSONResponse({"error": "no repo"}, status_code=404, headers={"X-Error-Code": "RepoNotFound"})
        if request.path_params.get("revision", "main") not in ("main", COMMIT):
            return JSONResponse({"error": "no rev"}, status_code=404, headers={"X-Error-Code": "RevisionNotFound"})
        return None

    def info(self, request: Request) -> Response:
        folder = self.folder(request)
        body = {"id": f"{request.path_params['ns']}/{request.path_params['name']}", "sha": COMMIT, "siblings": []}
        return self.refusal(request, folder) or JSONResponse(body)

    def tree(self, request: Request) -> Response:
        folder = self.folder(request)
        refusal = self.refusal(request, folder)
        if refusal or folder is None:
            return refusal or Response(status_code=500)
        recursive = request.query_params.get("recursive", "").lower() == "true"
        found = sorted(folder.rglob("*") if recursive else folder.iterdir())
        return JSONResponse(
            [
                {
                    "type": "directory" if path.is_dir() else "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": 0 if path.is_dir() else path.stat().st_size,
                    "oid": "0" * 40,
                }
                for path in found
            ]
        )

    def resolve(self, request: Request) -> Response:
        folder = self.folder(request)
        refusal = self.refusal(request, folder)
        if refusal or folder is None:
            return refusal or Response(status_code=500)
        path = folder / request.path_params["path"]
        if not path.is_file():
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            return JSONResponse({"error": "no entry"}, status_code=404, headers=headers)
        data = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        asked = request.headers.get("range")
        if asked and request.method == "GET":
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            return Response(data[start:end], status_code=206, headers=headers)
        return Response(data, headers=headers)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[TinyHub, str]]:
    hub = TinyHub(tmp_path / "hub")
    folder = write_model_files(hub.root / "acme/tiny")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "merges.txt").write_text("a b")
    (folder / "bpe.codes").write_text("a b 1")
    (folder / "source.spm").write_text("pieces")
    (folder / "README.md").write_text("read")
    (folder / ".gitattributes").write_text("")
    for place in ("additional_chat_templates", "additional", "a", "additional_chat_templates2"):
        (folder / place).mkdir()
        (folder / place / "rag.jinja").write_text("x")
        (folder / place / "evil.py").write_text("raise SystemExit")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    (folder / "onnx").mkdir()
    (folder / "onnx/config.json").write_text("{}")
    url = hub.start()
    yield hub, url
    hub.stop()


@pytest.fixture
def models(hub: tuple[TinyHub, str], tmp_path: Path) -> HubModels:
    return HubModels(hub[1], "", tmp_path / "cache", max_bytes=1_000_000)


def test_a_hub_model_is_fetched_without_pickle_code_and_sub_folders(models: HubModels) -> None:
    seen: list[float] = []
    model = models.fetch("acme/tiny", None, seen.append)

    names = {path.relative_to(model.path).as_posix() for path in model.path.rglob("*") if path.is_file()}
    plain = {"config.json", "model.safetensors", "tokenizer.json", "merges.txt", "bpe.codes", "source.spm"}
    assert names == plain | {"additional_chat_templates/rag.jinja"}
    assert model.revision == COMMIT
    assert seen[-1] == 1.0
    assert seen == sorted(seen)
    assert len(seen) > 1


def test_a_second_fetch_downloads_nothing(hub: tuple[TinyHub, str], models: HubModels) -> None:
    models.fetch("acme/tiny", None, lambda _: None)
    hub[0].log.clear()
    models.fetch("acme/tiny", None, lambda _: None)
    assert not [line for line in hub[0].log if line.startswith("GET") and "/resolve/" in line]


def test_a_fetched_model_is_given_while_the_hub_is_away(hub: tuple[TinyHub, str], models: HubModels) -> None:
    fetched = models.fetch("acme/tiny", None, lambda _: None)
    hub[0].status = 503
    assert models.fetch("acme/tiny", None, lambda _: None) == fetched
    models.exists("acme/tiny", None)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_fetch_that_was_cut_off_is_not_taken_for_whole(
    hub: tuple[TinyHub, str], models: HubModels, missing: str
) -> None:
    fetched = models.fetch("acme/tiny", None, lambda _: None)
    (fetched.path / missing).unlink()
    hub[0].status = 503
    with pytest.raises(HubUnavailable):
        models.fetch("acme/tiny", None, lambda _: None)
    hub[0].status = 200
    assert (models.fetch("acme/tiny", None, lambda _: None).path / missing).exists()


def test_the_dry_run_reads_headers_and_leaves_the_weights(
    hub: tuple[TinyHub, str], models: HubModels, tmp_path: Path
) -> None:
    found = models.inspect("acme/tiny", None)
    assert (found.revision, found.inspection.head, found.inspection.vocab_size) == (COMMIT, "lm_head.weight", 32)
    assert found.inspection.nbytes == (hub[0].root / "acme/tiny/model.safetensors").stat().st_size
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("model_id", "revision"), [("acme/gone", None), ("acme/tiny", "v9"), ("acme/gone", COMMIT), ("acme/tiny", "f" * 40)]
)
def test_an_unknown_model_or_revision_is_not_found(models: HubModels, model_id: str, revision: str | None) -> None:
    for ask in (models.exists, models.inspect, lambda *which: models.fetch(*which, lambda _: None)):
        with pytest.raises(ModelNotFound):
            ask(model_id, revision)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_is_unavailable(hub: tuple[TinyHub, str], models: HubModels, status: int) -> None:
    hub[0].status = status
    for ask in (models.exists, models.inspect, lambda *which: models.fetch(*which, lambda _: None)):
        with pytest.raises(HubUnavailable):
            ask("acme/tiny", None)


def test_a_hub_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    models = HubModels("http://127.0.0.1:9", "", tmp_path, 1)
    for ask in (models.exists, models.inspect, lambda *which: models.fetch(*which, lambda _: None)):
        with pytest.raises(HubUnavailable):
            ask("acme/tiny", None)


def test_a_model_over_the_cap_is_refused_before_the_download(hub: tuple[TinyHub, str], tmp_path: Path) -> None:
    models = HubModels(hub[1], "", tmp_path / "cache", max_bytes=1000)
    with pytest.raises(ModelTooLarge, match="at most 1,000"):
        models.fetch("acme/tiny", None, lambda _: None)
    assert not any("/resolve/" in line for line in hub[0].log)


def test_a_model_larger_than_the_disk_is_refused_before_the_download(
    models: HubModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DiskFull):
        models.fetch("acme/tiny", None, lambda _: None)


def test_a_pickle_only_model_is_unsafe_and_not_fetched(hub: tuple[TinyHub, str], models: HubModels) -> None:
    (hub[0].root / "acme/tiny/model.safetensors").unlink()
    for ask in (models.exists, lambda *which: models.fetch(*which, lambda _: None)):
        with pytest.raises(UnsafeModel, match="pickle"):
            ask("acme/tiny", None)
    assert not any("/resolve/" in line for line in hub[0].log)
    with pytest.raises(UnsafeModel, match="pickle"):
        models.inspect("acme/tiny", None)


def test_a_hub_model_with_foreign_code_is_unsafe(hub: tuple[TinyHub, str], models: HubModels) -> None:
    write_model_files(hub[0].root / "acme/tiny", auto_map={})
    with pytest.raises(UnsafeModel):
        models.inspect("acme/tiny", None)
    with pytest.raises(UnsafeModel):
        models.fetch("acme/tiny", None, lambda _: None)


def test_a_cancellation_stops_the_download(models: HubModels) -> None:
    def cancel(_: float) -> None:
        raise JobCanceled

    with pytest.raises(JobCanceled):
        models.fetch("acme/tiny", None, cancel)


def test_local_models_are_listed_found_and_checked(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "acme/tiny")
    (tmp_path / "acme/empty").mkdir()
    models = LocalModels(tmp_path)
    assert models.local_ids() == ["acme/tiny"]
    models.exists("acme/tiny", None)
    assert models.inspect("acme/tiny", None).inspection.head == "lm_head.weight"
    assert models.fetch("acme/tiny", None, lambda _: None).path == folder

    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptCheckpoint):
        models.exists("acme/tiny", None)


@pytest.mark.parametrize("model_id", ["../x", "a/..", "/etc/passwd", "a", "a/b/c", "", "a\0/b", "a/.hidden", "./a"])
def test_an_id_never_becomes_another_path(tmp_path: Path, model_id: str) -> None:
    with pytest.raises(InvalidModelId):
        LocalModels(tmp_path).exists(model_id, None)


def test_a_local_model_that_is_a_link_to_elsewhere_is_unsafe(tmp_path: Path) -> None:
    outside = write_model_files(tmp_path / "outside")
    (tmp_path / "models/acme").mkdir(parents=True)
    (tmp_path / "models/acme/tiny").symlink_to(outside)
    with pytest.raises(UnsafeModel, match="link"):
        LocalModels(tmp_path / "models").fetch("acme/tiny", None, lambda _: None)


def test_an_operator_can_allow_links_and_the_refusal_says_how(tmp_path: Path) -> None:
    outside = write_model_files(tmp_path / "outside")
    inside = write_model_files(tmp_path / "models/acme/files")
    (inside / "model.safetensors").unlink()
    (inside / "model.safetensors").symlink_to(outside / "model.safetensors")
    (tmp_path / "models/acme/tiny").symlink_to(outside)
    closed = open_models(Settings(data_dir=tmp_path, hub_endpoint=""))
    allowed = open_models(Settings(data_dir=tmp_path, hub_endpoint="", follow_model_links=True))

    for name in ("acme/tiny", "acme/files"):
        with pytest.raises(UnsafeModel, match="HEADROOM_FOLLOW_MODEL_LINKS=true"):
            closed.exists(name, None)
        assert allowed.fetch(name, None, lambda _: None).path.name == name.partition("/")[2]


def test_a_template_that_is_a_link_to_elsewhere_is_unsafe(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "models/acme/tiny")
    (tmp_path / "secret").write_text("secret")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/a.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeModel, match="link"):
        LocalModels(tmp_path / "models").exists("acme/tiny", None)


def test_local_models_come_before_the_hub_and_a_revision_means_the_hub(
    hub: tuple[TinyHub, str], models: HubModels, tmp_path: Path
) -> None:
    write_model_files(tmp_path / "local/acme/tiny")
    chain = ChainedModels([LocalModels(tmp_path / "local"), models])
    assert chain.fetch("acme/tiny", None, lambda _: None).revision is None
    assert hub[0].log == []
    assert chain.fetch("acme/tiny", COMMIT, lambda _: None).revision == COMMIT
    assert chain.local_ids() == ["acme/tiny"]
    with pytest.raises(ModelNotFound, match=r"no local model acme/gone.*the hub has no model acme/gone"):
        chain.exists("acme/gone", None)


def test_a_folder_inside_a_local_model_is_a_revision_of_it(tmp_path: Path) -> None:
    models = LocalModels(tmp_path)
    write_model_files(tmp_path / "acme/tiny")
    inside = write_model_files(tmp_path / "acme/tiny/checkpoints/step-16")
    write_model_files(tmp_path / "acme/other")

    found = models.fetch("acme/tiny", "checkpoints/step-16", lambda _: None)

    assert (found.id, found.revision, found.path) == ("acme/tiny", "checkpoints/step-16", inside)
    assert models.inspect("acme/tiny", "checkpoints/step-16").revision == "checkpoints/step-16"
    assert models.local_ids() == ["acme/other", "acme/tiny"]
    for revision in (
        "checkpoints/step-17",
        "../other",
        "checkpoints/../../other",
        "checkpoints//step-16",
        "./checkpoints",
    ):
        with pytest.raises(ModelNotFound):
            models.exists("acme/tiny", revision)


def test_a_broken_local_model_is_not_replaced_by_the_hubs(models: HubModels, tmp_path: Path) -> None:
    (write_model_files(tmp_path / "local/acme/tiny") / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CorruptCheckpoint):
        ChainedModels([LocalModels(tmp_path / "local"), models]).exists("acme/tiny", None)


def test_without_an_endpoint_there_are_local_models_only(tmp_path: Path) -> None:
    models = open_models(Settings(data_dir=tmp_path, hub_endpoint=""))
    with pytest.raises(ModelNotFound) as refusal:
        models.exists("acme/tiny", None)
    assert "hub" not in refusal.value.message
    assert json.dumps(models.local_ids()) == "[]"


def test_a_hub_that_is_away_does_not_hide_that_the_model_is_not_local(tmp_path: Path) -> None:
    hub = HubModels("http://127.0.0.1:9", "", tmp_path / "cache", 10**9)
    models = ChainedModels([LocalModels(tmp_path / "models"), hub])
    with pytest.raises(HubUnavailable, match=r"acme/tiny.*hub does not answer"):
        models.exists("acme/tiny", None)
