"""MemoryKeys and MemoryHolds: keys and holders of corpora for tests and examples. Nothing outlives the process."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from service.foundation.errors import InternalError, KeyNotFound
from service.ports.jobs import Clock
from service.records.callers import Key
from service.records.quotas import NO_QUOTAS, Quotas
from tests.in_memory.job_store import MemoryJobStore


class MemoryKeys:
    """access_ports.KeyStore over dictionaries. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._keys: dict[str, tuple[Key, str]] = {}
        self._sessions: dict[str, tuple[str, datetime]] = {}

    def add(self, key: Key, digest: str) -> None:
        with self._mutex:
            if key.id in self._keys:
                raise InternalError(f"key id {key.id} was given out twice")
            self._keys[key.id] = key, digest

    def find(self, key_id: str) -> tuple[Key, str] | None:
        return self._keys.get(key_id)

    def all(self) -> list[Key]:
        return sorted((key for key, _ in self._keys.values()), key=lambda key: (-key.created.timestamp(), key.id))

    def revoke(self, key_id: str) -> Key:
        with self._mutex:
            if key_id not in self._keys:
                raise KeyNotFound(f"there is no key {key_id!r}; `headroom keys list` shows those that are there")
            key, digest = self._keys[key_id]
            key = replace(key, revoked=key.revoked or self._clock())
            self._keys[key_id] = key, digest
            return key

    def note_use(self, key_id: str, time: datetime) -> None:
        with self._mutex:
            key, digest = self._keys[key_id]
            self._keys[key_id] = replace(key, last_used=time), digest

    def add_session(self, digest: str, key_id: str, expires: datetime) -> None:
        with self._mutex:
            self._sessions[digest] = key_id, expires

    def find_session(self, digest: str) -> tuple[Key, datetime] | None:
        with self._mutex:
            if digest not in self._sessions:
                return None
            key_id, expires = self._sessions[digest]
            return self._keys[key_id][0], expires

    def remove_session(self, digest: str) -> None:
        with self._mutex:
            self._sessions.pop(digest, None)


class MemoryHolds:
    """access_ports.CorpusHolds over a dictionary. Thread-safe."""

    def __init__(self, clock: Clock, jobs: MemoryJobStore | None = None) -> None:
        """jobs: whose files count as well, and with which it takes turns."""
        self._clock = clock
        self._mutex = jobs.mutex if jobs else threading.RLock()
        self._job_bytes = jobs.stored_bytes if jobs else lambda owner: 0
        if jobs:
            jobs.corpus_bytes = self.bytes
        self._since: dict[tuple[str, str], datetime] = {}
        self._sizes: dict[str, int] = {}

    def hold(self, owner: str, corpus_id: str, size: int, quotas: Quotas = NO_QUOTAS) -> tuple[datetime, bool]:
        with self._mutex:
            is_new = (owner, corpus_id) not in self._since
            if is_new:
                quotas.check_fit(self.bytes(owner) + self._job_bytes(owner), size, "this corpus")
            self._sizes[corpus_id] = size
            return self._since.setdefault((owner, corpus_id), self._clock()), is_new

    def since(self, owner: str, corpus_id: str) -> datetime | None:
        return self._since.get((owner, corpus_id))

    def held(self, owner: str) -> dict[str, datetime]:
        with self._mutex:
            return {corpus_id: since for (holder, corpus_id), since in self._since.items() if holder == owner}

    def last(self, corpus_id: str) -> datetime | None:
        with self._mutex:
            return max((since for hold, since in self._since.items() if hold[1] == corpus_id), default=None)

    def bytes(self, owner: str) -> int:
        return sum(self._sizes[corpus_id] for corpus_id in self.held(owner))

    def release(self, owner: str | None, corpus_id: str, remove: Callable[[], None]) -> None:
        with self._mutex:
            released = {hold for hold in self._since if hold[1] == corpus_id and owner in (None, hold[0])}
            if not any(hold[1] == corpus_id for hold in self._since.keys() - released):
                remove()
            for hold in released:
                del self._since[hold]
