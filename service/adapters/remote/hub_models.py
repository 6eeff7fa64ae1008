"""HubModels: models of a Hugging Face hub, fetched into a cache below the data directory. Loads and runs nothing.

Fetched are safetensors, and whatever a tokenizer may read: every file of the top folder that is neither code nor
weights of another kind nor for people to read, and chat templates. Neither pickle nor code ever reaches this disk.
huggingface_hub is slow to import, hence the imports inside functions.
"""

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO, cast

from service.adapters.files.durable_files import NO_SPACE, disk_full_is_typed, make_folder
from service.foundation.errors import (
    CorruptCheckpoint,
    DiskFull,
    HubUnavailable,
    ModelNotFound,
    ModelTooLarge,
    ServiceError,
)
from service.models.model_files import inspect_files, inspect_model, refuse_outside_links, refuse_without_safetensors
from service.models.side_files import OTHER_SUFFIXES, TEMPLATES_FOLDER
from service.ports.models import FoundModel, LocalModel

WANTED = ["*"]
# Second copies of the same weights.
COPIES = ["consolidated*", "*.fp16.safetensors", "*.fp16-*", "*.fp32.safetensors", "*.bf16.safetensors"]
# Sub-folders hold other formats (onnx, original), but for the one of templates. These patterns know no exceptions.
OTHER_FOLDERS = [f"{TEMPLATES_FOLDER[:at]}[!{letter}]*/*" for at, letter in enumerate(TEMPLATES_FOLDER)]
OTHER_FOLDERS += [f"{TEMPLATES_FOLDER[:at]}/*" for at in range(1, len(TEMPLATES_FOLDER))]
OTHER_FOLDERS += [f"{TEMPLATES_FOLDER}?*/*", f"{TEMPLATES_FOLDER}/*/*"]
OTHER_KINDS = [f"*{ending}" for suffix in sorted(OTHER_SUFFIXES) for ending in {suffix, suffix.upper()}]
UNWANTED = [*COPIES, *OTHER_FOLDERS, *OTHER_KINDS, ".*", "*tfevents*"]
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_SECONDS = 10.0
HEADER_BLOCK_BYTES = 131_072
HTTP_LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})


class HubModels:
    """ports.ModelSource over one hub. An empty token means none, not the one of whoever runs the process."""

    def __init__(self, endpoint: str, token: str, cache_dir: Path, max_bytes: int) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token: str | bool = token or False
        self._cache_dir = cache_dir
        self._max_bytes = max_bytes

    def local_ids(self) -> list[str]:
        """None: what is cached may be gone or stale tomorrow, so it is not offered as local."""
        return []

    def exists(self, model_id: str, revision: str | None) -> None:
        try:
            with _typed_errors(model_id, revision):
                self._sizes_if_fetchable(model_id, self._commit(model_id, revision))
        except HubUnavailable:
            if self._cached(model_id, revision) is None:
                raise

    def inspect(self, model_id: str, revision: str | None) -> FoundModel:
        """Reads config.json and the headers of the weights over the network: some requests for each file."""
        with _typed_errors(model_id, revision):
            commit = self._commit(model_id, revision)
            sizes = self._sizes_if_fetchable(model_id, commit)
            files = _HubFiles(self._endpoint, self._token, f"{model_id}@{commit}", sizes)
            return FoundModel(model_id, commit, inspect_files(files, Path(model_id)))

    def fetch(self, model_id: str, revision: str | None, progress: Callable[[float], None]) -> LocalModel:
        """A fetch that was cut off goes on where it was. While the hub is away, what was fetched whole is given."""
        try:
            with _typed_errors(model_id, revision), disk_full_is_typed(f"fetching {model_id}"):
                folder = self._download(model_id, revision, progress)
        except HubUnavailable:
            cached = self._cached(model_id, revision)
            if cached is None:
                raise
            folder = cached
        refuse_outside_links(folder, self._cache_dir)
        inspect_model(folder)
        os.utime(folder.parent.parent)  # when the model was last asked for: what is longest ago goes first
        progress(1.0)
        return LocalModel(model_id, folder.name, folder)

    def _commit(self, model_id: str, revision: str | None) -> str:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._endpoint, token=self._token)
        commit = api.model_info(model_id, revision=revision, timeout=TIMEOUT_SECONDS).sha
        if commit is None or not COMMIT.fullmatch(commit):  # it becomes part of a path
            raise HubUnavailable(f"the hub names no commit for {model_id}; is {self._endpoint} a model hub?")
        return commit

    def _sizes(self, model_id: str, commit: str) -> dict[str, int]:
        """The files of the top folder, unwanted ones too."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        listed = HfApi(endpoint=self._endpoint, token=self._token).list_repo_tree(model_id, revision=commit)
        return {item.path: item.size for item in listed if isinstance(item, RepoFile) and "/" not in item.path}

    def _sizes_if_fetchable(self, model_id: str, commit: str) -> dict[str, int]:
        """ModelTooLarge, or what the list of names alone shows to be wrong."""
        sizes = self._sizes(model_id, commit)
        refuse_without_safetensors(set(sizes))
        total = _wanted_bytes(sizes)
        if total > self._max_bytes:
            raise ModelTooLarge(f"{model_id} has {total:,} bytes; this service fetches at most {self._max_bytes:,}")
        return sizes

    def _download(self, model_id: str, revision: str | None, progress: Callable[[float], None]) -> Path:
        from huggingface_hub import snapshot_download

        commit = self._commit(model_id, revision)
        total = _wanted_bytes(self._sizes_if_fetchable(model_id, commit))
        self._refuse_full_disk(model_id, total)
        folder = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=self._cache_dir,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
            endpoint=self._endpoint,
            token=self._token,
            tqdm_class=_silent_bar(total, progress),
        )
        if Path(folder).name != commit:  # its size was never checked
            raise HubUnavailable(f"{model_id} was changed on the hub while it was fetched; try again")
        return Path(folder)

    def _refuse_full_disk(self, model_id: str, total: int) -> None:
        from huggingface_hub.file_download import repo_folder_name

        blobs = self._cache_dir / repo_folder_name(repo_id=model_id, repo_type="model") / "blobs"
        held = sum(blob.stat().st_size for blob in blobs.glob("*"))
        make_folder(self._cache_dir)
        if shutil.disk_usage(self._cache_dir).free < total - held:
            raise DiskFull(f"{model_id} needs {total:,} bytes and the disk has fewer; free some and try again")

    def _cached(self, model_id: str, revision: str | None) -> Path | None:
        """The snapshot of an earlier fetch, if it is whole."""
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=self._cache_dir,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
                local_files_only=True,
            )
        except OSError:
            return None
        return Path(folder)


class _HubFiles:
    """model_files.ModelFiles over the network, by ranges: a header is read without the weights behind it."""

    def __init__(self, endpoint: str, token: str | bool, repository: str, sizes: dict[str, int]) -> None:
        from huggingface_hub import HfFileSystem

        self._files = HfFileSystem(endpoint=endpoint, token=token, skip_instance_cache=True)
        self._repository = repository
        self._sizes = sizes

    def names(self) -> set[str]:
        return set(self._sizes)

    def size(self, name: str) -> int:
        return self._sizes[name]

    def open(self, name: str) -> BinaryIO:
        if name not in self._sizes:
            raise CorruptCheckpoint(f"{name} is missing")
        opened = self._files.open(f"{self._repository}/{name}", "rb", block_size=HEADER_BLOCK_BYTES)
        return cast(BinaryIO, opened)


def _wanted_bytes(sizes: dict[str, int]) -> int:
    return sum(size for name, size in sizes.items() if _is_wanted(name))


def _is_wanted(name: str) -> bool:
    return not any(fnmatch(name, no) for no in UNWANTED)


def _silent_bar(total: int, progress: Callable[[float], None]) -> type[Any]:
    """A progress bar that shows nothing and reports bytes. Downloads run in threads, so it takes turns."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    lock = threading.Lock()

    class SilentBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            self._seen = 0.0
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            with lock:
                self._seen += n or 0
                if self._counts_bytes and total:
                    progress(min(self._seen / total, 1.0))

    return SilentBar


@contextmanager
def _typed_errors(model_id: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except ServiceError:
        raise
    except GatedRepoError:
        raise ModelNotFound(f"{model_id} is gated on the hub; set a token that may read it") from None
    except RepositoryNotFoundError:
        raise ModelNotFound(f"the hub has no model {model_id}, or the token may not read it") from None
    except RevisionNotFoundError:
        raise ModelNotFound(f"{model_id} has no revision {revision!r} on the hub") from None
    except HfHubHTTPError as error:
        raise HubUnavailable(
            f"the hub answered {error.response.status_code} for {model_id}; try again later"
        ) from error
    except Exception as error:
        if not _is_connection_error(error):
            raise
        raise HubUnavailable(f"the hub does not answer ({type(error).__name__}); try again later") from error


def _is_connection_error(error: Exception) -> bool:
    """huggingface_hub lets its HTTP library's errors through, and which library that is changes with its version."""
    if isinstance(error, OSError):
        return error.errno not in NO_SPACE
    return type(error).__module__.split(".")[0] in HTTP_LIBRARIES
