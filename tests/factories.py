"""Small makers of valid objects for tests. Nothing here touches disk or network unless its name says so."""

import json
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from api.answers.job_views import job_view
from headroom.contract.compress import CompressRecipe
from service.ports.jobs import JobStore
from service.records.job import Job, new_job_id

CORPUS_ID = "corpus_" + "0" * 32
ENGINE_DEVICE = os.environ.get("HEADROOM_TEST_DEVICE", "cpu")  # `cuda` where there is one: what the engine runs on

Result = TypeVar("Result")


def make_recipe(**fields: Any) -> CompressRecipe:
    return CompressRecipe.model_validate({"model": "acme/tiny", "ratio": 0.5, "corpus": CORPUS_ID} | fields)


def make_job(**fields: Any) -> Job:
    now = datetime.now(UTC)
    return Job(**({"id": new_job_id(), "recipe": make_recipe(), "created": now, "queued": now} | fields))


def job_told(**fields: Any) -> dict[str, Any]:
    """The JSON of a job as a server answers it, but for `fields`."""
    told = job_view(make_job()).model_dump(mode="json")
    return told | fields


class StoppedClock:
    """Stands still until it is told to move."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


def add_job(store: JobStore, **fields: Any) -> Job:
    """A queued job that is in the store."""
    job = make_job(**fields)
    store.add(job)
    return job


def claim_job(store: JobStore, job_id: str, worker: str = "w1", lease_seconds: float = 30.0) -> Job:
    job = store.claim(job_id, worker, lease_seconds)
    assert job is not None
    return job


def add_running_job(store: JobStore, **fields: Any) -> Job:
    return claim_job(store, add_job(store, **fields).id)


def list_events(store: JobStore, job_id: str) -> list[tuple[str, Any]]:
    """Type and last value of each event, such as ("status", "queued") and ("attempt", "worker_lost")."""
    return [(event.type, next(reversed(event.data.values()))) for event in store.events(job_id, 0, 1000)]


def run_at_once(count: int, call: Callable[[int], Result]) -> list[Result]:
    """What `call` gives for 0, 1, .. when as many threads start it at the same moment."""
    start = threading.Barrier(count)

    def run(number: int) -> Result:
        start.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def write_safetensors(path: Path, tensors: dict[str, list[int]]) -> None:
    """A valid file of float32 zeros with these shapes, made without torch."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(end))


def write_model_files(folder: Path, tensors: dict[str, list[int]] | None = None, **config: Any) -> Path:
    """A folder that passes as an untied causal model of 32 tokens and 16 columns. Nothing could run it."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32, "hidden_size": 16}
    (folder / "config.json").write_text(json.dumps(described | {"tie_word_embeddings": False} | config))
    write_safetensors(
        folder / "model.safetensors",
        tensors or {"model.embed_tokens.weight": [32, 16], "model.norm.weight": [16], "lm_head.weight": [32, 16]},
    )
    return folder
