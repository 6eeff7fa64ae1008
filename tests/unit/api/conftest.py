from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from anyio import CapacityLimiter
from fastapi.testclient import TestClient

from api.app import create_app
from api.dependencies import Services
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.remote.local_models import LocalModels
from tests.factories import write_model_files
from tests.in_memory.access import MemoryHolds, MemoryKeys
from tests.in_memory.audit import MemoryAudit
from tests.in_memory.job_store import MemoryJobStore
from tests.in_memory.queue import MemoryQueue

MAX_BODY_BYTES = 10_000
MAX_CORPUS_BYTES = 100_000


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """In-memory store and queue, folders for the rest, and one local model `acme/tiny`."""
    write_model_files(tmp_path / "models/acme/tiny")
    return Services(
        store=MemoryJobStore(now),
        queue=MemoryQueue(),
        artifacts=DirectoryArtifacts(tmp_path / "artifacts"),
        keys=MemoryKeys(now),
        holds=MemoryHolds(now),
        audit=MemoryAudit(),
        corpora=DirectoryCorpora(tmp_path / "corpora", MAX_CORPUS_BYTES, now),
        models=LocalModels(tmp_path / "models"),
        clock=now,
        data_dir=tmp_path,
        max_body_bytes=MAX_BODY_BYTES,
        max_corpus_bytes=MAX_CORPUS_BYTES,
        uploads=CapacityLimiter(2),
        is_open=True,
    )


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), base_url="http://localhost") as client:
        yield client
