"""What every process of a worker machine works with. Real adapters are chosen here and nowhere else in workers/."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from service.adapters.directory_artifacts import DirectoryArtifacts
from service.adapters.otlp_tracing import open_tracer
from service.adapters.sql_store import SqlJobStore
from service.ports import ArtifactStore, Clock, JobStore
from service.retries import RetryPolicy
from service.settings import Settings
from service.tracing import NoTracer, Tracer


@dataclass(frozen=True)
class Parts:
    """The store of truth, the artifacts, and the settings that say how they are used."""

    settings: Settings
    store: JobStore
    artifacts: ArtifactStore
    clock: Clock
    tracer: Tracer = field(default_factory=NoTracer)

    @property
    def retry(self) -> RetryPolicy:
        return RetryPolicy(self.settings.max_attempts, self.settings.retry_pause_seconds)

    def close(self) -> None:
        self.store.close()
        self.tracer.close()


def open_parts(settings: Settings) -> Parts:
    """Connects lazily: a database that is away shows at the first call. `close` it when done."""
    store = SqlJobStore(settings.database, utc_now)
    return Parts(settings, store, DirectoryArtifacts(settings.artifacts_dir), utc_now, open_tracer("headroom-worker"))


def utc_now() -> datetime:
    return datetime.now(UTC)
