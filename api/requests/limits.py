"""What every request passes before its route: an id, a cap on its body, and a net under what nobody expected."""

import logging
import re
import secrets

import structlog
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class RequestIds:
    """Echo X-Request-Id, or give one. An exception that no handler took becomes a problem with that id in it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if REQUEST_ID.fullmatch(asked) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        ids = {"request_id": request_id} | {k: v for k, v in scope["state"].items() if k == "trace_id"}
        structlog.contextvars.bind_contextvars(**ids)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.info("request %s: the client went away while it was sending", request_id)
        except Exception:
            logger.exception("request %s broke: %s %s", request_id, scope["method"], scope["path"])
            if started:
                raise  # the server cuts the connection, so that nobody takes half an answer for whole
            detail = "This is a defect of the server; its log has more under this request_id."
            await problem(Request(scope), "internal_error", detail)(scope, receive, send_with_id)


class BodyLimit:
    """Refuse bodies over a cap, announced or not (chunked). Uploads of corpora have a cap of their own.

    Starlette has the like, but its refusal of an announced body is plain text, not a problem.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, upload_path: str, max_upload_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._upload_path = upload_path
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cap = self._max_upload_bytes if scope["path"] == self._upload_path else self._max_bytes
        announced = Headers(scope=scope).get("content-length", "")
        received = 0

        async def receive_within_cap() -> Message:
            nonlocal received
            if announced.isdecimal() and int(announced[:20]) > cap:
                raise _too_large(cap)
            message = await receive()
            received += len(message.get("body", b""))
            if received > cap:
                raise _too_large(cap)
            return message

        await self._app(scope, receive_within_cap, send)


def _too_large(cap: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {cap:,} bytes; send a smaller one")
