"""Where files are kept, chosen by the settings: the data directory, or an object store. The one place that decides."""

from dataclasses import dataclass

from service.adapters.directory_artifacts import DirectoryArtifacts
from service.adapters.directory_corpora import DirectoryCorpora
from service.adapters.shard_files import DirectoryShardFiles, ObjectShardFiles
from service.errors import StorageRefused
from service.file_ports import ArtifactStore, CorpusStore, ShardFiles
from service.ports import Clock
from service.settings import Settings


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
        from service.adapters.bucket import Bucket
        from service.adapters.object_artifacts import ObjectArtifacts
        from service.adapters.object_corpora import ObjectCorpora
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
