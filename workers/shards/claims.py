"""Do one shard that was claimed: compute its answer, hand it in, and keep the lease meanwhile. No tensors here."""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from service.foundation.errors import AttemptSuperseded, JobCanceled, StoreUnavailable
from service.jobs.failures import as_service_error
from service.jobs.retries import patiently
from service.ports.engine import ShardWork
from service.ports.jobs import ShardStore
from service.records.shards import GivenBack, Shard, answer_name, cache_name
from workers.wiring import Parts

logger = logging.getLogger(__name__)


class ShardLost(Exception):
    """Another worker has the shard by now."""


class ShardLease:
    """Sends heartbeats of a shard from a thread, with how far it is, as long as the block lasts."""

    def __init__(self, store: ShardStore, shard: Shard, seconds: float, interval: float) -> None:
        self._store = store
        self._shard = shard
        self._seconds = seconds
        self._interval = interval
        self._fraction = 0.0
        self._is_lost = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="shard lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, fraction: float) -> None:
        """Note how much is done. ShardLost if the work is for nothing."""
        self._fraction = fraction
        if self._is_lost:
            raise ShardLost

    def _keep(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self._store.heartbeat(self._shard, self._seconds, self._fraction)
            except AttemptSuperseded:
                self._is_lost = True
                return
            except StoreUnavailable as error:
                logger.warning("no heartbeat for shard %d: %s", self._shard.number, error)


def do_shard(shard: Shard, parts: Parts, work: ShardWork, on_error: GivenBack, tell: Callable[[float], None]) -> bool:
    """Whether its answer counts: somebody else may have taken the shard over. `tell` may raise to stop the work.

    Whatever is raised gives the shard back, as `on_error` says.
    """
    settings, store = parts.settings, parts.store.shards
    try:
        with (
            temporary_folder(parts) as temporary,
            ShardLease(store, shard, settings.lease_seconds, settings.heartbeat_seconds) as lease,
        ):

            def progress(fraction: float) -> None:
                lease.tell(fraction)
                tell(fraction)

            answer = temporary / "answer"
            work(shard.number, answer, progress)
            parts.shard_files.put(shard.job_id, answer_name(shard), answer)
            patiently(partial(_finish, store, shard), settings.lease_seconds)
        return True
    except ShardLost:
        logger.warning("shard %d of %s was taken over by another worker", shard.number, shard.job_id)
        return False
    except BaseException as error:
        why = GivenBack.STOPPED if isinstance(error, JobCanceled) else on_error
        with suppress(StoreUnavailable):  # the lease will tell
            store.give_back(shard, why, as_service_error(error))
        raise


def _finish(store: ShardStore, shard: Shard) -> None:
    try:
        store.finish(shard)
    except AttemptSuperseded as error:
        raise ShardLost from error


@contextmanager
def temporary_folder(parts: Parts) -> Iterator[Path]:
    """A folder beside the hidden states, where a dead process's is removed (workers/sweeping/caches.py)."""
    folder = parts.settings.hidden_states_dir
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".shard-", dir=folder) as temporary:
        yield Path(temporary)


def is_local(shard: Shard, parts: Parts) -> bool:
    """Whether the hidden states of a shard seem to be in the cache of this machine."""
    return (parts.settings.hidden_states_dir / cache_name(shard.question, shard.number)).is_dir()
