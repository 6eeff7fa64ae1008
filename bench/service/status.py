"""Asking again after a job: GET /v1/jobs/{id} with If-None-Match, against a bare FastAPI route of the same JSON.

ratio: requests a second of the first over those of the second. Each server is one process under the same uvicorn, asked
by the same client over sixteen connections that are kept open; ours reads its database for every request. The servers
take turns, and the median of all rounds counts, since other work on the machine disturbs single ones.

tick_milliseconds: what the streams of a dashboard that watches 1,000 running jobs cost, every half a second: the look
at the store when none of them changed, and when all did, their messages included.
"""

import asyncio
import tempfile
import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from fastapi import FastAPI

from api.live.live_jobs import StoreLooks
from bench.service.published import publish, serve, serve_api, served
from headroom.contract.answers.job import Phase
from headroom.contract.compress import CompressRecipe
from service.adapters.migrate import upgrade
from service.adapters.sql.job_store import SqlJobStore
from service.foundation.settings import Settings
from service.records.job import Job, new_job_id

CONNECTIONS = 16
SECONDS = 0.5
ROUNDS = 15  # the first warms up
WATCHED = 1000


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        job, _ = publish(Path(name) / "data", {"config.json": 0})
        path = f"/v1/jobs/{job.id}"
        with served(serve_api, Path(name) / "data") as ours:
            answer = httpx.get(f"http://127.0.0.1:{ours}{path}", trust_env=False)
            with served(serve_bare, answer.json()) as theirs:
                targets = [(ours, answer.headers["etag"], 304), (theirs, None, 200), (ours, None, 200)]
                rounds = [[asyncio.run(_load(path, *target)) for target in targets] for _ in range(ROUNDS)]
    unchanged, bare, whole = (median(rates) for rates in zip(*rounds[1:], strict=True))
    return {
        "ratio": round(median(one / other for one, other, _ in rounds[1:]), 2),
        "whole_ratio": round(median(one / other for _, other, one in rounds[1:]), 2),  # without If-None-Match
        "unchanged_per_second": round(unchanged),
        "whole_per_second": round(whole),
        "bare_per_second": round(bare),
        "bytes": len(answer.content),
        "tick_milliseconds": _ticks(),
    }


def _ticks() -> dict[str, float]:
    found: dict[str, list[float]] = {"unchanged": [], "all_changed": []}
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(data_dir=Path(name))
        upgrade(settings.database)
        store = SqlJobStore(settings.database, _now)
        jobs = [_running_job(store) for _ in range(WATCHED)]
        looks = StoreLooks(store, _now)
        looks.look(jobs, is_check=True)
        for step in range(1, 6):
            for job in jobs:
                store.report_progress(job, 1, Phase.ENCODING, step / 10)
            for kind in ("all_changed", "unchanged"):
                begun = time.perf_counter()
                looks.look(jobs, is_check=False)
                found[kind].append(1e3 * (time.perf_counter() - begun))
        store.close()
    return {kind: round(median(times), 1) for kind, times in found.items()}


def _running_job(store: SqlJobStore) -> str:
    recipe = CompressRecipe.model_validate({"model": "acme/large", "corpus": "corpus_" + "0" * 32})
    job = Job(new_job_id(), recipe, _now())
    store.add(job)
    store.claim(job.id, "bench", 600)
    return job.id


def _now() -> datetime:
    return datetime.now(UTC)


def serve_bare(connection: Connection, view: dict[str, Any]) -> None:
    app = FastAPI()

    @app.get("/v1/jobs/{job_id}")
    async def read(job_id: str) -> dict[str, Any]:
        return view

    serve(connection, app)


async def _load(path: str, port: int, etag: str | None, status: int) -> float:
    """Requests a second."""
    condition = f"If-None-Match: {etag}\r\n" if etag else ""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{condition}\r\n".encode()
    begun = time.perf_counter()
    counts = await asyncio.gather(*(_ask(port, request, status, begun + SECONDS) for _ in range(CONNECTIONS)))
    return sum(counts) / (time.perf_counter() - begun)


async def _ask(port: int, request: bytes, status: int, until: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while count == 0 or time.perf_counter() < until:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(f"http/1.1 {status} ".encode()):
            raise RuntimeError(f"not a {status}: {head!r}")
        length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b":0")
        await reader.readexactly(int(length.partition(b":")[2]))
        count += 1
    writer.close()
    await writer.wait_closed()
    return count
