"""JSON bodies read strictly, instead of FastAPI's way: no NaN, no duplicate keys, no NUL or lone surrogates."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from service.foundation.strict_json import NotStrictJson, parse_object


class StrictRequest(Request):
    """A request whose `json()` refuses what is not strict."""

    async def json(self) -> Any:
        try:
            return parse_object(await self.body())
        except NotStrictJson as error:
            raise HTTPException(400, f"the body is no strict JSON: {error}") from None


class StrictRoute(APIRoute):
    """A route whose JSON body is strict, and which takes no other kind of body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_strictly(request: Request) -> Response:
            if media_type(request) != "application/json":
                raise HTTPException(415, "send the body as JSON, with Content-Type: application/json")
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


def media_type(request: Request) -> str:
    """The media type without its parameters, in lower case; empty when there is none."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()
