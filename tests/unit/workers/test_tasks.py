"""The task of one message: it looks after the machine's caches only where it ran something."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.files.shard_files import DirectoryShardFiles
from service.foundation.settings import Settings
from tests.factories import add_job
from tests.in_memory.job_store import MemoryJobStore
from workers import tasks
from workers.wiring import Parts


def test_the_message_of_a_canceled_job_costs_a_claim_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryJobStore(lambda: datetime.now(UTC))
    corpora = DirectoryCorpora(tmp_path / "corpora", 1000, lambda: datetime.now(UTC))
    artifacts, shards = DirectoryArtifacts(tmp_path / "a"), DirectoryShardFiles(tmp_path / "s")
    parts = Parts(Settings(data_dir=tmp_path), store, artifacts, corpora, shards, store._clock)
    asked: list[str] = []
    claim = store.claim
    monkeypatch.setattr(store, "claim", lambda *of: asked.append("claim") or claim(*of))
    monkeypatch.setattr(tasks, "open_parts", lambda settings: parts)
    monkeypatch.setattr(tasks, "limit_caches", lambda parts: asked.append("caches"))
    monkeypatch.setattr(tasks, "start_job_process", lambda job: pytest.fail("a process was started"))
    job = add_job(store)
    store.request_cancel(job.id)

    tasks.run_job(job.id)
    assert asked == ["claim"]

    monkeypatch.setattr(tasks, "run_attempt", lambda *of: True)
    tasks.run_job(job.id)
    assert asked == ["claim", "caches"]
