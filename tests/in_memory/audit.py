"""MemoryAudit: the audit log for tests and examples. Nothing outlives the process."""

import threading
from dataclasses import replace

from service.records.audit import AuditEntry, AuditFilter, AuditPage


class MemoryAudit:
    """access_ports.AuditLog over a list. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._entries: list[AuditEntry] = []

    def append(self, entry: AuditEntry) -> None:
        with self._mutex:
            self._entries.append(replace(entry, number=len(self._entries) + 1))

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
