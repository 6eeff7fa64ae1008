"""MemoryAudit: the audit log for tests and examples. Nothing outlives the process."""

import threading
from dataclasses import replace
from datetime import datetime

from service.records.audit import AuditEntry, AuditFilter, AuditPage


class MemoryAudit:
    """access_ports.AuditLog over a list. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._entries: list[AuditEntry] = []
        self._last = 0

    def append(self, entry: AuditEntry) -> None:
        with self._mutex:
            self._last += 1
            self._entries.append(replace(entry, number=self._last))

    def page(self, where: AuditFilter, limit: int, after: int | None) -> AuditPage:
        with self._mutex:
            found = [
                entry
                for entry in reversed(self._entries)
                if (after is None or entry.number < after)
                and where.owner in (None, entry.owner)
                and where.action in (None, entry.action)
            ]
        return AuditPage(found[:limit], has_more=len(found) > limit)

    def forget(self, before: datetime) -> int:
        with self._mutex:
            kept = [entry for entry in self._entries if entry.time >= before]
            count, self._entries = len(self._entries) - len(kept), kept
        return count
