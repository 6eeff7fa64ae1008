"""What a worker removes from its disk after an attempt, and what it leaves there for jobs to come."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headroom.contract.answers.job import Status
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.files.shard_files import DirectoryShardFiles
from service.foundation.settings import Settings
from tests.factories import add_job, add_running_job, make_recipe
from tests.in_memory.job_store import MemoryJobStore
from workers.sweeping import caches
from workers.sweeping.caches import limit_caches
from workers.wiring import Parts

CORPORA = ["corpus_" + digit * 32 for digit in "123"]


def clock() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    settings = Settings(data_dir=tmp_path, max_hidden_cache_bytes=1, max_model_cache_bytes=1)
    corpora = DirectoryCorpora(tmp_path / "corpora", 1000, clock)
    files = DirectoryShardFiles(tmp_path / "shards")
    return Parts(settings, MemoryJobStore(clock), DirectoryArtifacts(tmp_path / "artifacts"), corpora, files, clock)


def put(folder: Path, *names: str) -> None:
    for age, name in enumerate(reversed(names)):
        (folder / name).mkdir(parents=True)
        (folder / name / "data").write_bytes(bytes(100))
        os.utime(folder / name, (1000 - age, 1000 - age))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_models_and_corpora_of_jobs_that_have_not_ended_stay(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "CORPUS_COPIES_BYTES", 1)
    put(parts.settings.hub_cache_dir, "models--acme--waiting", "models--acme--running", "models--acme--done")
    put(parts.settings.corpus_copies_dir, *CORPORA)
    put(parts.settings.hidden_states_dir, "key")
    add_job(parts.store, recipe=make_recipe(model="acme/waiting", corpus=CORPORA[0]))
    add_running_job(parts.store, recipe=make_recipe(model="acme/running", corpus=CORPORA[1]))
    done = add_running_job(parts.store, recipe=make_recipe(model="acme/done", corpus=CORPORA[2]))
    parts.store.finish(done.id, 1, Status.REJECTED, {}, None)

    limit_caches(parts)

    assert left(parts.settings.hub_cache_dir) == ["models--acme--running", "models--acme--waiting"]
    assert left(parts.settings.corpus_copies_dir) == CORPORA[:2]
    assert left(parts.settings.hidden_states_dir) == []


def test_a_database_that_is_away_is_no_reason_to_fail(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    put(parts.settings.hub_cache_dir, "models--acme--any")
    parts.store.away = True  # type: ignore[attr-defined]

    limit_caches(parts)

    assert "not looked at" in caplog.text
    assert left(parts.settings.hub_cache_dir) == ["models--acme--any"]
