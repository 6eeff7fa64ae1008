"""How many requests an owner may send: counted where the caller is known, told in the headers of every answer.

RateLimit and RateLimit-Policy are those of the IETF's draft-ietf-httpapi-ratelimit-headers.
"""

from fastapi import Depends, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.ports.access import Allowance

POLICY = '"owner"'


async def _do_not_count(request: Request) -> None:
    request.state.is_counted = False


# A dependency for a route that clients ask before anything else and never ask again when they are refused.
UNCOUNTED = Depends(_do_not_count)


class RateLimitHeaders:
    """The middleware that tells what is left, if the request was counted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_told(message: Message) -> None:
            allowance: Allowance | None = scope.get("state", {}).get("allowance")
            if message["type"] == "http.response.start" and allowance is not None:
                headers = MutableHeaders(scope=message)
                headers["RateLimit-Policy"] = f"{POLICY};q={allowance.limit};w={allowance.window_seconds}"
                headers["RateLimit"] = f"{POLICY};r={allowance.remaining};t={allowance.seconds}"
                if message["status"] == 429:
                    headers["Retry-After"] = str(allowance.seconds)
            await send(message)

        await self._app(scope, receive, send_told)
