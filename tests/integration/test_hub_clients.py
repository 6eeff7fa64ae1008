"""The clients that people have, against our hub on a real port."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from api.dependencies import Services
from service.adapters.remote.hub_models import HubModels
from service.records.callers import Key, Scope, digest_of, new_secret
from service.records.job import Job
from tests.hub_server import CuttingProxy, HubServer, make_services, publish
from tests.tiny_models import make_tiny_checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
REPO = "acme/tiny-slim"  # as in docs/hub.md
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in several shards, and a sub-folder."""
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("source") / "tiny", "llama", shard_size="40KB")
    (folder / "plots").mkdir()
    (folder / "plots/curve one.svg").write_text("<svg/>")
    (folder / "empty.txt").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    return make_services(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def jobs(services: Services, source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Two publications in one repository, the newer last."""
    older = tmp_path_factory.mktemp("older")
    (older / "README.md").write_text("the first one")
    named: dict[str, Any] = {"publish": {"repo": REPO}}
    return [publish(services, older, 0.1, **named), publish(services, source, 0.3, **named)]


@pytest.fixture(scope="module")
def hub(services: Services, jobs: list[Job]) -> Iterator[HubServer]:
    with HubServer(services) as server:
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def run(hub: HubServer, folder: Path, *command: str, status: int = 0) -> str:
    """A command of the virtual environment in a folder of its own; what it printed."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        command, cwd=folder, env=os.environ | variables | {"PATH": path}, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_a_snapshot_is_the_published_files(hub: HubServer, source: Path, tmp_path: Path) -> None:
    folder = Path(snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path / "cache", token=False))
    assert contents(folder) == contents(source)
    local = snapshot_download(REPO, endpoint=hub.url, local_dir=tmp_path / "local", token=False)
    assert contents(Path(local)) == contents(source)


def test_revisions_are_main_tags_and_commits(api: HfApi, hub: HubServer, jobs: list[Job], tmp_path: Path) -> None:
    refs = api.list_repo_refs(REPO)
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    assert tags.keys() == {jobs[0].id, jobs[1].id, "r10", "r30"}
    assert refs.branches[0].target_commit == tags["r30"] == tags[jobs[1].id] == api.model_info(REPO).sha
    for revision in ("r10", jobs[0].id, tags["r10"]):
        assert api.list_repo_files(REPO, revision=revision) == ["README.md"]
        found = hf_hub_download(REPO, "README.md", revision=revision, endpoint=hub.url, cache_dir=tmp_path, token=False)
        assert Path(found).read_text() == "the first one"
        assert Path(found).parent.name == tags["r10"]


def test_a_hub_that_asks_for_a_key_takes_it_from_hf_token(
    services: Services, jobs: list[Job], source: Path, tmp_path: Path
) -> None:
    key_id, secret = new_secret()
    services.keys.add(
        Key(key_id, "hub", "local", frozenset({Scope.ARTIFACTS_READ}), services.clock()), digest_of(secret)
    )
    with HubServer(replace(services, is_open=False)) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": secret}
        command = [str(Path(sys.executable).with_name("hf")), "download", REPO, "--local-dir", str(tmp_path / "got")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert contents(tmp_path / "got") == contents(source)

        with pytest.raises(RepositoryNotFoundError) as refused:
            snapshot_download(REPO, endpoint=hub.url, token="hf_bad", cache_dir=tmp_path / "cache")
        assert refused.value.server_message == "Invalid credentials in Authorization header"
        with pytest.raises(RepositoryNotFoundError, match="make sure you are authenticated"):
            snapshot_download(REPO, endpoint=hub.url, token=False, cache_dir=tmp_path / "cache")
        assert HfApi(endpoint=hub.url, token=secret).whoami()["name"] == "local"


def test_what_is_not_there_is_told_apart(api: HfApi, hub: HubServer) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/gone")
    for revision in ("gone", "refs/pr/1", "a b/ü"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info(REPO, revision=revision)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "gone.json", endpoint=hub.url, token=False)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "additional_chat_templates"))


def test_an_absent_file_is_remembered_as_absent(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "gone.json", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert list(tmp_path.rglob(".no_exist/*/gone.json"))


def test_the_rest_of_the_api_answers(api: HfApi, hub: HubServer, source: Path) -> None:
    assert sorted(api.list_repo_files(REPO)) == sorted(contents(source))
    assert api.file_exists(REPO, "plots/curve one.svg")
    assert not api.file_exists(REPO, "plots/gone.svg")
    assert not api.repo_exists("acme/gone")
    assert {item.path for item in api.list_repo_tree(REPO)} >= {"plots", "config.json"}
    assert "plots/curve one.svg" not in {item.path for item in api.list_repo_tree(REPO)}
    assert [item.path for item in api.list_repo_tree(REPO, "plots")] == ["plots/curve one.svg"]
    asked = api.get_paths_info(REPO, ["config.json", "plots", "gone"])
    assert [item.path for item in asked] == ["plots", "config.json"]
    assert api.model_info(REPO, files_metadata=True).siblings
    assert api.get_safetensors_metadata(REPO).sharded
    files = HfFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    assert f"{REPO}/plots" in files.ls(REPO, detail=False)
    assert files.read_bytes(f"{REPO}/config.json") == (source / "config.json").read_bytes()
    assert HfApi(endpoint=hub.url, token="hf_any").whoami()["name"] == "local"  # of an open server


def test_the_hf_command_downloads_and_verifies_and_finds_damage(hub: HubServer, source: Path, tmp_path: Path) -> None:
    run(hub, tmp_path, "hf", "download", REPO, "--local-dir", "local")
    assert contents(tmp_path / "local") == contents(source)
    verify = ("hf", "cache", "verify", REPO, "--local-dir", "local")
    run(hub, tmp_path, *verify, "--fail-on-missing-files")
    damaged = tmp_path / "local/config.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"{", b"[", 1))
    assert "config.json" in run(hub, tmp_path, *verify, status=1)


def test_a_service_fetches_its_models_from_a_hub_of_ours(hub: HubServer, source: Path, tmp_path: Path) -> None:
    models = HubModels(hub.url, "", tmp_path / "cache", max_bytes=10_000_000)
    models.exists(REPO, None)
    commit = models.inspect(REPO, "r30").revision
    fetched = models.fetch(REPO, None, lambda fraction: None)
    assert fetched.revision == commit
    weights = sorted(name for name in contents(source) if name.endswith(".safetensors"))
    assert sorted(path.name for path in fetched.path.glob("*.safetensors")) == weights


def test_a_download_goes_on_where_its_connection_was_cut(hub: HubServer, services: Services, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    content = os.urandom(1 << 20) * 24
    (tmp_path / "large/model.safetensors").write_bytes(content)
    repo = publish(services, tmp_path / "large").repository
    assert repo is not None
    with CuttingProxy(hub.port, 15_000_000) as proxy:
        endpoint = f"http://127.0.0.1:{proxy.port}/hub"
        found = hf_hub_download(repo, "model.safetensors", endpoint=endpoint, cache_dir=tmp_path, token=False)
    assert proxy.has_cut
    assert Path(found).read_bytes() == content
    starts = [int(start) for start in re.findall(rb"\r\nrange: bytes=(\d+)-\r\n", proxy.asked.lower())]
    assert max(starts) >= 10_485_760


def test_the_commands_of_the_page_for_consumers_work(hub: HubServer, tmp_path: Path) -> None:
    lines = ["set -euo pipefail"]
    for number, (language, code) in enumerate(BLOCK.findall((ROOT / "docs/hub.md").read_text())):
        code = code.replace("http://127.0.0.1:8000/hub", hub.url)
        if language == "python":
            (tmp_path / f"block{number}.py").write_text(code)
            code = f"python block{number}.py\n"
        lines.append(code)
    run(hub, tmp_path, "bash", "-c", "\n".join(lines))
    assert (tmp_path / "config.json").is_file()  # by curl
