"""HEAD is answered as GET is, without the body (RFC 9110, 9.3.2), on every route that has no HEAD of its own."""

from starlette.routing import Match, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Answered(OSError):
    """Tells whoever goes on writing that its reader has all that it wanted."""


class AnswerHead:
    """Streams are told to end after their headers, as if the client had left."""

    def __init__(self, app: ASGIApp, router: Router) -> None:
        self.app = app
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or self._knows(scope):
            await self.app(scope, receive, send)
            return
        is_answered = False

        async def send_headers(message: Message) -> None:
            nonlocal is_answered
            if is_answered:
                raise _Answered("the answer to HEAD has no body")
            await send(message)
            if message["type"] == "http.response.start":
                await send({"type": "http.response.body", "body": b""})
                is_answered = True

        try:
            await self.app({**scope, "method": "GET"}, receive, send_headers)
        except Exception:
            if not is_answered:
                raise

    def _knows(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self._router.routes)
