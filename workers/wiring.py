"""What every process of a worker machine works with. Real adapters are chosen here and nowhere else in workers/."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from service.adapters.files.storage import open_storage
from service.adapters.remote.otlp_tracing import open_tracer
from service.adapters.sql.job_store import SqlJobStore
from service.foundation.settings import Settings
from service.foundation.tracing import NoTracer, Tracer
from service.jobs.retries import RetryPolicy
from service.ports.files import ArtifactStore, CorpusStore, ShardFiles
from service.ports.jobs import Clock, JobStore
from service.publishing.retention import Retention


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
        return Retention(
            settings.keep_artifacts_days,
            settings.keep_reports_days,
            settings.keep_corpora_days,
            settings.keep_audit_days,
        )

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
