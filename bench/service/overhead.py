"""What the service adds to a job on the embedded default: accept, queue, claim and publish.

overhead_seconds: from POST to the claim, plus the publishing phase. start_seconds: the rest outside of the engine,
which is starting the job's process and loading torch. A tiny random model, so that nothing else is large.
"""

import math
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from headroom.client.client import Client
from headroom.local.embedded import EmbeddedServer
from tests.tiny_models import make_text, make_tiny_checkpoint

JOBS = 5
ENGINE = ("encoding", "analyzing", "sweeping", "slicing", "validating")


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny_checkpoint(folder / "models" / "acme" / "tiny")
        corpus = folder / "corpus.txt"
        corpus.write_text(make_text(), encoding="utf-8")
        with EmbeddedServer(folder / "data", folder / "models", "127.0.0.1", 0) as server:
            client = Client(server.url)
            jobs = [_one_job(client, corpus, seed) for seed in range(JOBS)]
    names = ("overhead_seconds", "engine_seconds", "start_seconds")
    return {"jobs": JOBS} | {name: round(median(job[name] for job in jobs), 2) for name in names}


def _one_job(client: Client, corpus: Path, seed: int) -> dict[str, float]:
    """Times are the service's own, not the poller's."""
    options = {"window": 32, "calibration_tokens": 1024, "evaluation_tokens": 1024, "seed": seed}
    record = (
        client.compress("acme/tiny", corpus, ratio=0.5, max_drift=9.0, kl_budget=math.inf, options=options)
        .wait(timeout=120)
        .record
    )
    assert record.status == "succeeded", record.error
    assert record.created is not None
    assert record.started is not None
    assert record.finished is not None
    waiting = (record.started - record.created).total_seconds()
    overhead = waiting + record.phase_seconds["publishing"]
    engine = sum(record.phase_seconds[phase] for phase in ENGINE)
    total = (record.finished - record.created).total_seconds()
    return {"overhead_seconds": overhead, "engine_seconds": engine, "start_seconds": total - overhead - engine}
