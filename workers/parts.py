"""What every process of a worker machine works with. Real adapters are chosen here and nowhere else in workers/."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from service.adapters.otlp_tracing import open_tracer
from service.adapters.sql_store import SqlJobStore
from service.adapters.storage import open_storage
from service.file_ports import ArtifactStore, CorpusStore, ShardFiles
from service.ports import Clock, JobStore
from service.retention import Retention
from service.retries import RetryPolicy
from service.settings import Settings
from service.tracing import NoTracer, Tracer


@dataclass(frozen=True)
class Parts:
    """The store of truth, the files, and the settings that say how they are used."""

    settings: Settings
    store: JobStore
    artifacts: ArtifactStore
    corpora: CorpusStore
    shard_files: ShardFiles
    clock: Clock
    tracer: Tracer = field(default_factory=NoTracer)

    @property
    def retry(self) -> RetryPolicy:
        return RetryPolicy(self.settings.max_attempts, self.settings.retry_pause_seconds)

    @property
    def retention(self) -> Retention:
        settings = self.settings
        return Retention(settings.keep_artifacts_days, settings.keep_reports_days, settings.keep_corpora_days)

    def close(self) -> None:
        self.store.close()
        self.tracer.close()


def open_parts(settings: Settings) -> Parts:
    """Connects lazily: a database that is away shows at the first call. `close` it when done."""
    store, storage = SqlJobStore(settings.database, utc_now), open_storage(settings, utc_now)
    files = (storage.artifacts, storage.corpora, storage.shards)
    return Parts(settings, store, *files, utc_now, open_tracer("headroom-worker"))


def utc_now() -> datetime:
    return datetime.now(UTC)
