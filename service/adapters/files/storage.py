"""Where files are kept, chosen by the settings: the data directory, or an object store. The one place that decides."""

from dataclasses import dataclass

from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.files.shard_files import DirectoryShardFiles, ObjectShardFiles
from service.foundation.errors import StorageRefused
from service.foundation.settings import Settings
from service.ports.files import ArtifactStore, CorpusStore, ShardFiles
from service.ports.jobs import Clock


@dataclass(frozen=True)
class Storage:
    artifacts: ArtifactStore
    corpora: CorpusStore
    shards: ShardFiles


def open_storage(settings: Settings, clock: Clock) -> Storage:
    """Connects to nothing yet. StorageRefused if the credentials of an object store cannot be read."""
    if not settings.storage_url:
        return Storage(
            DirectoryArtifacts(settings.artifacts_dir),
            DirectoryCorpora(settings.corpora_dir, settings.max_corpus_bytes, clock),
            DirectoryShardFiles(settings.shards_dir),
        )
    try:
        from service.adapters.files.bucket import Bucket
        from service.adapters.files.object_artifacts import ObjectArtifacts
        from service.adapters.files.object_corpora import ObjectCorpora
    except ImportError as error:
        raise StorageRefused("no library for HEADROOM_STORAGE_URL; run: pip install 'headroom-lm[s3]'") from error

    bucket = Bucket(settings.storage_url, settings.storage_public_endpoint)
    return Storage(
        ObjectArtifacts(
            bucket,
            settings.artifacts_dir / "staging",
            link_seconds=settings.storage_link_seconds if settings.storage_redirect else 0.0,
        ),
        ObjectCorpora(
            bucket,
            settings.corpora_dir / "incoming",
            settings.corpus_copies_dir,
            settings.max_corpus_bytes,
            clock,
        ),
        ObjectShardFiles(bucket, settings.shards_dir),
    )
