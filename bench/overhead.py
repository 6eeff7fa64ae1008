"""What the service adds to a job: accept, queue, claim, process start, publish; on the embedded default.

overhead_seconds: from POST to `succeeded`, less the phases the engine reports and less starting the job's process
(measured apart, as the time a process of the same imports takes). A tiny random model, so that nothing else is large.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from headroom.client import Client
from headroom.embedded import EmbeddedServer
from tests.tiny_models import make_text, make_tiny_checkpoint

JOBS = 5
IMPORTS = "import workers.job_process, service.compression.pipeline"  # what the process loads before the engine starts


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny_checkpoint(folder / "models" / "acme" / "tiny")
        corpus = folder / "corpus.txt"
        corpus.write_text(make_text(), encoding="utf-8")
        with EmbeddedServer(folder / "data", folder / "models", "127.0.0.1", 0) as server:
            client = Client(server.url)
            jobs = [_one_job(client, corpus, seed) for seed in range(JOBS)]
    start = median(_process_start() for _ in range(3))
    around = median(total - engine for total, engine in jobs)
    return {
        "jobs": JOBS,
        "post_to_end_seconds": round(median(total for total, _ in jobs), 2),
        "engine_seconds": round(median(engine for _, engine in jobs), 2),
        "process_start_seconds": round(start, 2),
        "overhead_seconds": round(around - start, 2),
    }


def _one_job(client: Client, corpus: Path, seed: int) -> tuple[float, float]:
    """(seconds from POST to the end, seconds inside the engine). Times are the service's own, not the poller's."""
    options = {"window": 32, "calibration_tokens": 1024, "evaluation_tokens": 1024, "seed": seed}
    record = client.compress("acme/tiny", corpus, ratio=0.5, max_drift=9.0, options=options).wait(timeout=120).record
    assert record.status == "succeeded", record.error
    assert record.finished is not None
    assert record.created is not None
    engine = ("encoding", "analyzing", "sweeping", "slicing", "validating")
    return (record.finished - record.created).total_seconds(), sum(record.phase_seconds[phase] for phase in engine)


def _process_start() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True)
    return time.perf_counter() - started
