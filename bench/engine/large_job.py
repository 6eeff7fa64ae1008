"""A whole compress job on the checkpoint of large.py, tied, with room in memory for no layer: peak of each phase.

Resident memory counts the pages of mapped files too. Few tokens: their number changes the time, not the memory.
"""

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.engine.large import SHAPE, in_child, make_checkpoint, peak
from headroom.contract.answers.job import Phase
from headroom.contract.compress import CompressRecipe
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.compression.jobs.engines import run_engine
from service.models.memory_needs import offloaded_bytes, working_bytes
from service.models.model_files import inspect_model
from service.ports.engine import CorpusFile, EngineTask
from service.ports.models import LocalModel
from service.publishing.manifest import hash_files
from tests.tiny_models import make_text

OPTIONS = {"window": 32, "calibration_tokens": 64, "evaluation_tokens": 64, "compare": [], "continuations": 0}


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        return in_child(whole_job, make_checkpoint(folder / "source", tied=True), folder)


def whole_job(source: Path, folder: Path) -> dict[str, Any]:
    """Everything but fetching, as a worker does it, with memory for the head and no layer."""
    corpus = folder / "corpus.txt"
    corpus.write_text(make_text(), encoding="utf-8")
    drift = {"perplexity": 9.0, "kl": None}
    recipe = CompressRecipe.model_validate(
        {
            "model": "bench/large",
            "corpus": {"text": "-"},
            "method": "slope",
            "ratio": 0.5,
            "drift": drift,
            "options": OPTIONS,
        }
    )
    artifacts = DirectoryArtifacts(folder / "artifacts")
    staging = artifacts.staging("job", 1)
    local = LocalModel("bench/large", None, source)
    task: EngineTask[Any] = EngineTask(
        "job", recipe, (local,), (CorpusFile(corpus, "text", None),), folder / "cache", staging, "cpu"
    )
    peaks: dict[str, int] = {"process": peak()}
    phase = Phase.FETCHING

    def on_progress(now: Phase, done: float) -> None:
        nonlocal phase
        if now is not phase:
            peaks[phase.value], phase = max(peak(), peaks.get(phase.value, 0)), now

    model, started = inspect_model(source), time.perf_counter()
    outcome = run_engine(replace(task, memory_bytes=1), on_progress)
    on_progress(Phase.PUBLISHING, 0.0)
    artifacts.publish("job", 1, hash_files(staging, outcome.hashes, lambda done: None))
    peaks["publishing"] = peak()
    del peaks["fetching"]
    shutil.rmtree(folder / "artifacts")
    return {
        "verdict": outcome.verdict.value,
        "seconds": round(time.perf_counter() - started, 1),
        "checkpoint_bytes": model.nbytes,
        "estimated_bytes": working_bytes(SHAPE["vocab_size"], SHAPE["hidden_size"]) + offloaded_bytes(model),
        "head_bytes": 2 * SHAPE["vocab_size"] * SHAPE["hidden_size"],
        "peak_bytes": peaks,
        "whole_peak_bytes": max(peaks.values()),
    }
