"""Boundaries of who may do what, as Protocols: keys, holders of corpora, the audit log, limits."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from service.records.audit import AuditEntry, AuditFilter, AuditPage
from service.records.callers import Key
from service.records.quotas import NO_QUOTAS, Quotas


class KeyStore(Protocol):
    """Keys and browser sessions. Of a secret only its digest comes here."""

    def add(self, key: Key, digest: str) -> None: ...

    def find(self, key_id: str) -> tuple[Key, str] | None:
        """The key, valid or not, and the digest of its secret."""

    def all(self) -> list[Key]:
        """Newest first, also those that are no longer valid."""

    def revoke(self, key_id: str) -> Key:
        """From now on; the first time counts. KeyNotFound."""

    def note_use(self, key_id: str, time: datetime) -> None: ...

    def add_session(self, digest: str, key_id: str, expires: datetime) -> None: ...

    def find_session(self, digest: str) -> tuple[Key, datetime] | None:
        """The key that it was opened with, valid or not, and when it expires."""

    def remove_session(self, digest: str) -> None:
        """Unknown ones are ignored."""


class CorpusHolds(Protocol):
    """Which owner holds which corpus."""

    def hold(self, owner: str, corpus_id: str, size: int, quotas: Quotas = NO_QUOTAS) -> tuple[datetime, bool]:
        """Since when, and whether only now. QuotaExceeded if the owner would then store more than `quotas` allow,
        published files of jobs included; however many ask at once."""

    def since(self, owner: str, corpus_id: str) -> datetime | None:
        """None: this owner does not hold it."""

    def held(self, owner: str) -> dict[str, datetime]:
        """Ids of all that this owner holds."""

    def last(self, corpus_id: str) -> datetime | None:
        """When somebody last took hold of it who still has it; None: nobody has."""

    def bytes(self, owner: str) -> int:
        """Sum over all that this owner holds."""

    def release(self, owner: str | None, corpus_id: str, remove: Callable[[], None]) -> None:
        """End this owner's hold, or everybody's. Calls `remove` if nobody holds the corpus then, and lets nobody take
        hold of it meanwhile."""


class AuditLog(Protocol):
    """Append-only, but for what is too old to be kept."""

    def append(self, entry: AuditEntry) -> None: ...

    def page(self, where: AuditFilter, limit: int, after: int | None) -> AuditPage:
        """Newest first; `after` is the number of the last entry of the page before."""

    def forget(self, before: datetime) -> int:
        """Remove the entries of before; how many there were. For retention alone: no route and no command calls it."""


@dataclass(frozen=True)
class Allowance:
    """What is left to an owner after one more request."""

    is_allowed: bool
    limit: int  # requests in a window
    window_seconds: int
    remaining: int
    seconds: int  # until there is more


class RateLimiter(Protocol):
    """Counts requests of owners."""

    def take(self, owner: str) -> Allowance:
        """Count one. Never raises, and never waits long."""
