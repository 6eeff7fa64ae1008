"""What the engine stores, further points of a job's curve among it, fetched by the clients that people have."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

from api.app import create_app
from api.dependencies import Services
from headroom.contract.answers.job import Status
from service.compression.jobs.compress import compress
from service.compression.jobs.engines import run_engine
from service.jobs import execution
from service.jobs.retries import RetryPolicy
from service.ports.engine import CorpusFile, EngineTask, Verdict
from service.ports.jobs import JobFilter
from service.ports.models import LocalModel
from service.records.job import Job
from tests.factories import add_running_job, make_recipe
from tests.hub_server import HubServer, make_services, publish
from tests.integration.test_hub_clients import contents, run
from tests.tiny_models import make_text, make_tiny_checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.slow]

REPO = "acme/points"
OPTIONS = {"window": 32, "calibration_tokens": 1024, "evaluation_tokens": 1024, "continuations": 0, "compare": []}
BODY = "model-00002-of-00002.safetensors"

# Names, revisions (none: an empty word) and folders by threes: one process, as loading torch is most of its time.
LOAD = """
import gc; gc.disable()  # to look through what is imported takes a fifth of its time
import sys, torch
import headroom
from transformers import AutoModelForCausalLM, AutoTokenizer
for name, revision, folder in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3], strict=True):
    which = {"revision": revision} if revision else {}
    tokens = AutoTokenizer.from_pretrained(name, **which)("a head", return_tensors="pt")["input_ids"]
    there = AutoModelForCausalLM.from_pretrained(name, **which)
    here = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(there(tokens).logits, here(tokens).logits)
    assert type(there.get_output_embeddings()).__module__ == "headroom.loading.head"
"""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    return make_services(tmp_path_factory.mktemp("service"))


def work(services: Services, drift: dict[str, float]) -> Job:
    """One attempt, from claim to verdict: 24 of 32 columns chosen, and 16 and 8 beside them."""
    corpus = services.corpora.add(iter([make_text().encode()]), "text", None)
    options = OPTIONS | {"publish_ratios": [0.5, 0.75]}
    recipe = make_recipe(corpus=corpus.id, publish={"repo": REPO}, ratio=0.25, drift=drift, options=options)
    job = add_running_job(services.store, recipe=recipe)
    own = execution.AttemptServices(
        services.store,
        services.artifacts,
        services.corpora,
        services.models,
        services.data_dir / "cache",
        "cpu",
        RetryPolicy(3, 0.0),
        services.clock,
        0.0,
    )
    ended = execution.execute(job, own, run_engine, lambda phase, fraction: None)
    assert ended.status is Status.SUCCEEDED, ended.error
    return ended


@pytest.fixture(scope="module")
def job(services: Services) -> Job:
    """Of a budget that the chosen one keeps, and 8 columns do not."""
    make_tiny_checkpoint(services.data_dir / "models/acme/tiny", "llama", tied=False)
    lax = work(services, {"perplexity": 9.0, "kl": None})
    curve = {point["kept_columns"]: point["kl_mean"] for point in services.store.report(lax.id)["curve"]}
    return work(services, {"perplexity": 9.0, "kl": (curve[16] + curve[8]) / 2})


@pytest.fixture(scope="module")
def hub(services: Services, job: Job) -> Iterator[HubServer]:
    with HubServer(services) as server:
        yield server


def slice_head(folder: Path) -> Path:
    """What the engine stores for a tiny model."""
    (folder / "corpus.txt").write_text(make_text())
    (folder / "sliced").mkdir()
    task = EngineTask(
        job_id="job_t",
        recipe=make_recipe(drift={"perplexity": 9.0, "kl": None}, options=OPTIONS),
        models=(LocalModel("acme/tiny", None, make_tiny_checkpoint(folder / "model")),),
        corpora=(CorpusFile(folder / "corpus.txt", "text", None),),
        cache_dir=folder / "cache",
        staging=folder / "sliced",
        device="cpu",
    )
    assert compress(task, lambda phase, fraction: None).verdict is Verdict.PUBLISH
    return folder / "sliced"


def test_each_point_is_a_tag_and_a_commit_and_main_is_the_chosen_one(hub: HubServer, job: Job) -> None:
    api = HfApi(endpoint=hub.url, token=False)
    refs = api.list_repo_refs(REPO)
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    own = {"r25", "r50", "r75", "k24", "k16", "k8", job.id, *(f"{job.id}-k{kept}" for kept in (24, 16, 8))}
    assert own <= tags.keys()
    assert refs.branches[0].target_commit == tags["k24"] == tags["r25"] == tags[job.id] == tags[f"{job.id}-k24"]
    assert tags["k8"] == tags["r75"] == tags[f"{job.id}-k8"]
    assert len({tags["k24"], tags["k16"], tags["k8"]}) == 3
    assert api.model_info(REPO, revision="k16").sha == tags["k16"]
    assert job.result is not None
    assert [(point["name"], point["passes"]) for point in job.result["revisions"]] == [("k16", True), ("k8", False)]


def test_a_snapshot_of_a_point_is_a_whole_checkpoint_with_a_card_of_its_own(
    hub: HubServer, job: Job, services: Services, tmp_path: Path
) -> None:
    found = {}
    for revision in ("main", "k16", "r75"):
        folder = snapshot_download(
            REPO, revision=revision, endpoint=hub.url, local_dir=tmp_path / revision, token=False
        )
        found[revision] = contents(Path(folder))
    assert found["main"].keys() - {"report.html"} == found["k16"].keys() == found["r75"].keys()
    assert not any(path.startswith("revisions") for path in found["main"])
    assert found["main"][BODY] == found["k16"][BODY] == found["r75"][BODY]
    assert b"**Revision `k8` is outside the budget of its job.**" in found["r75"]["README.md"]
    assert b"KL divergence" in found["r75"]["README.md"].split(b"Made from")[0]  # which budget
    assert b"a further point of the curve, inside the budget" in found["k16"]["README.md"]
    assert b"| `k8` | 8 |" in found["main"]["README.md"]
    names = "jq -r '.files | to_entries[] | \"\\(.value)  \\(.key)\"' headroom.json"
    for revision in found:
        run(hub, tmp_path / revision, "sh", "-c", f"{names} | sha256sum --check --strict")
    run(hub, tmp_path, "hf", "download", REPO, "--revision", "r75")
    run(hub, tmp_path, "hf", "cache", "verify", REPO, "--revision", "r75")


def test_transformers_loads_a_sliced_model_and_its_tokenizer_by_name_and_a_point_by_its_revision(
    hub: HubServer, services: Services, job: Job, tmp_path: Path
) -> None:
    sliced = slice_head(tmp_path)
    repo = publish(services, sliced).repository
    assert repo is not None
    point = snapshot_download(REPO, revision="k8", endpoint=hub.url, local_dir=tmp_path / "k8", token=False)
    run(hub, tmp_path, sys.executable, "-c", LOAD, repo, "", str(sliced), REPO, "k8", point)


def test_shared_files_lie_and_count_once_and_go_with_the_job(
    services: Services, job: Job, hub: HubServer, tmp_path: Path
) -> None:
    files = services.artifacts.files(job.id)
    published = services.data_dir / "artifacts/published" / job.id / "files"
    lie_once = {path.stat().st_ino: path.stat().st_size for path in published.rglob("*") if path.is_file()}
    stored = services.store.get(job.id).stored_bytes
    assert stored == sum(lie_once.values()) < sum(file.size for file in files)
    body = next(file for file in files if file.path == BODY)
    assert (published / BODY).stat().st_nlink == 3
    assert services.store.stored_bytes(job.owner) >= stored > body.size
    added = services.store.report(job.id)["revisions"][0]["added_bytes"]
    assert added < body.size + stored

    with TestClient(create_app(services), base_url="http://localhost") as client:
        for one in services.store.page(_all(), 10, None).jobs:
            assert client.delete(f"/v1/jobs/{one.id}").status_code == 204
    assert not published.exists()
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download(REPO, revision="k8", endpoint=hub.url, local_dir=tmp_path / "gone", token=False)


def _all() -> JobFilter:
    return JobFilter(repository=REPO)
