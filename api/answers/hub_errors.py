"""Errors of the hub routes, in the form that Hugging Face clients read: a code in a header, the text in both."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from api.errors import CATALOGUE, headers_of
from service.foundation.errors import FileNotFound, RepositoryNotFound, RevisionNotFound, ServiceError, Unauthenticated

# Without its code a client takes a missing file for a broken connection. 401 goes out as RepoNotFound: of that clients
# make "no such repository, or not yours", and of a bare 401 over plain HTTP they make nothing.
CODES = {
    RepositoryNotFound.code: "RepoNotFound",
    RevisionNotFound.code: "RevisionNotFound",
    FileNotFound.code: "EntryNotFound",
    Unauthenticated.code: "RepoNotFound",
}
CODE_OF_STATUS = {401: "RepoNotFound", 403: "GatedRepo"}
BAD_TOKEN = "Invalid credentials in Authorization header"  # in these words clients know it


class HubRoute(APIRoute):
    """A route whose errors are a hub's. With `request.state.commit` in it, clients remember that a file is absent."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_as_hub(request: Request) -> Response:
            try:
                return await handle(request)
            except Unauthenticated as error:
                text = BAD_TOKEN if "authorization" in request.headers else error.message
                return _refusal(request, 401, text, CODES[error.code])
            except ServiceError as error:
                request.state.problem = error.code
                return _refusal(request, CATALOGUE[error.code].status, error.message, CODES.get(error.code))
            except HTTPException as error:
                code = CODE_OF_STATUS.get(error.status_code)
                return _refusal(request, error.status_code, str(error.detail), code, error.headers)
            except RequestValidationError:
                return _refusal(request, 422, "a parameter of the request is not valid")

        return handle_as_hub


def _refusal(
    request: Request, status: int, text: str, code: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    sent = (
        headers_of(status)
        | dict(headers or {})
        | {"X-Error-Message": text.encode("ascii", "replace").decode().replace("\n", " ")}
    )
    if code:
        sent["X-Error-Code"] = code
    commit = getattr(request.state, "commit", None)
    if commit:
        sent["X-Repo-Commit"] = commit
    return JSONResponse({"error": text.encode("utf-8", "replace").decode()}, status, sent)
