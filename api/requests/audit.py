"""Write what was done into the audit log, before the answer leaves. A log that is away refuses nobody: it is told."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from anyio import to_thread
from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.dependencies import Services
from service.records.audit import ACTIONS, AuditEntry
from service.records.callers import Caller

logger = logging.getLogger(__name__)

DOWNLOAD = "file.download"
REFUSALS_A_MINUTE = 60  # of one process; of one address one. Guessing must not fill the database
# Answers that are no download: not changed, not there (clients ask for many files that need not be), nothing to send.
NO_DOWNLOAD = frozenset({304, 404, 409, 416})


def audited(action: str) -> Any:
    """A dependency: requests of this route are recorded, however they end."""
    assert action in ACTIONS, action

    async def note(request: Request) -> None:
        request.state.audited = action

    return Depends(note)


class Refusals:
    """Which refused authentications are recorded: the first of an address in a minute, and not too many in all."""

    def __init__(self) -> None:
        self._minute = 0
        self._addresses: set[str] = set()

    def is_recorded(self, address: str, now: float) -> bool:
        minute = int(now // 60)
        if minute != self._minute:
            self._minute, self._addresses = minute, set()
        if address in self._addresses or len(self._addresses) >= REFUSALS_A_MINUTE:
            return False
        self._addresses.add(address)
        return True


class Audit:
    """The middleware that does it."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        scope.setdefault("state", {})

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                if status == 401 or "audited" in scope["state"]:  # nothing more for all others
                    entry = self._entry(scope, status, Headers(raw=message["headers"]))
                    if entry is not None:
                        await to_thread.run_sync(self._write, entry)
            await send(message)

        await self._app(scope, receive, send_recorded)

    def _entry(self, scope: Scope, status: int, headers: Mapping[str, str]) -> AuditEntry | None:
        state = scope["state"]
        action: str | None = state.get("audited")
        address = scope["client"][0] if scope.get("client") else ""
        if status == 401:
            action = "authenticate" if self._refusals.is_recorded(address, time.monotonic()) else None
        elif action == DOWNLOAD and not _is_download(scope["method"], status, headers):
            action = None
        if action is None:
            return None
        caller: Caller | None = state.get("caller")
        return AuditEntry(
            time=self._services.clock(),
            action=action,
            object=headers.get("location", scope["path"]) if status < 300 else scope["path"],
            outcome="ok" if status < 400 else state.get("problem", f"http_{status}"),
            owner=caller.owner if caller else None,
            key_id=caller.key_id if caller else None,
            request_id=state.get("request_id"),
            address=address,
        )

    def _write(self, entry: AuditEntry) -> None:
        try:
            self._services.audit.append(entry)
        except Exception:
            logger.warning("the audit log could not be written: %s", entry, exc_info=True)


def _is_download(method: str, status: int, headers: Mapping[str, str]) -> bool:
    """A resumed one was recorded when it began."""
    if method == "HEAD" or status in NO_DOWNLOAD:
        return False
    return headers.get("content-range", "bytes 0-").startswith("bytes 0-")
