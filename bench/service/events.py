"""500 streams of events from one API process, while a writer in another process moves jobs on.

latency: from a change to its arrival at a client, of all changes at all clients. memory: resident bytes of
the API process when the streams are open, and after each quarter of the time.
"""

import asyncio
import json
import multiprocessing
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.service.published import serve_api
from headroom.contract.answers.job import Phase
from headroom.contract.compress import CompressRecipe
from service.adapters.migrate import upgrade
from service.adapters.sql.job_store import SqlJobStore
from service.foundation.settings import Settings
from service.records.job import Job, new_job_id

CLIENTS = 500  # half of them follow all jobs, half of them one
JOBS = 10
QUARTERS = 4
QUARTER_SECONDS = 8.0
PAUSE_SECONDS = 0.5  # between two rounds of changes, one for each job


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(data_dir=Path(name))
        upgrade(settings.database)
        store = SqlJobStore(settings.database, _now)
        jobs = [_running_job(store) for _ in range(JOBS)]
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        server = context.Process(target=serve_api, args=(theirs, Path(name)))
        server.start()
        try:
            return asyncio.run(_measure(ours.recv(), psutil.Process(server.pid), store, jobs))
        finally:
            server.terminate()
            server.join()
            store.close()


async def _measure(port: int, server: psutil.Process, store: SqlJobStore, jobs: list[str]) -> dict[str, Any]:
    latencies: list[float] = []
    paths = ["/v1/events?limit=1" if n % 2 else f"/v1/jobs/{jobs[n % JOBS]}/events" for n in range(CLIENTS)]
    streams = [asyncio.create_task(_follow(port, path, latencies)) for path in paths]
    await asyncio.sleep(10)
    latencies.clear()
    memory, cpu, begun = [server.memory_info().rss], sum(server.cpu_times()[:2]), time.monotonic()
    step = 0
    for _ in range(QUARTERS):
        until = time.monotonic() + QUARTER_SECONDS
        while time.monotonic() < until:
            step += 1
            await asyncio.to_thread(_move, store, jobs, step)
            await asyncio.sleep(PAUSE_SECONDS)
        memory.append(server.memory_info().rss)
    seconds, used = time.monotonic() - begun, sum(server.cpu_times()[:2]) - cpu
    alive = sum(not stream.done() for stream in streams)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    latencies.sort()
    return {
        "clients": alive,
        "messages": len(latencies),
        "p50_seconds": round(latencies[len(latencies) // 2], 3),
        "p99_seconds": round(latencies[int(len(latencies) * 0.99)], 3),
        "memory_bytes": memory,
        "memory_growth": round(memory[-1] / memory[1] - 1, 3),  # after the first quarter: buffers are allocated then
        "server_cpu_share": round(used / seconds, 2),
    }


async def _follow(port: int, path: str, latencies: list[float]) -> None:
    """Progress is the time of its making, so that a message says how long it was under way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
    while line := await reader.readline():
        if line.startswith(b"data: ") and b'"status":"running"' in line and b'"progress":' in line:
            latencies.append(time.time() % 1000 - json.loads(line[6:])["progress"] * 1000)


def _move(store: SqlJobStore, jobs: list[str], step: int) -> None:
    for job_id in jobs:
        store.report_progress(job_id, 1, Phase.ENCODING, time.time() % 1000 / 1000)


def _running_job(store: SqlJobStore) -> str:
    recipe = CompressRecipe.model_validate({"model": "acme/large", "corpus": "corpus_" + "0" * 32})
    job = Job(new_job_id(), recipe, _now())
    store.add(job)
    store.claim(job.id, "bench", 3600)
    return job.id


def _now() -> datetime:
    return datetime.now(UTC)
