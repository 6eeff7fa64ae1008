"""Every error a client can meet, as one catalogue: code -> HTTP status and title. Answers are RFC 9457 problems.

The codes of service/foundation/errors.py are all here (a test walks its tree), and those that only HTTP knows.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.foundation.errors import ServiceError
from service.records.job import PHASES

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="headroom"'}
UNION_TAG = re.compile(r"constrained-\w+|literal\[.*\]|InlineText")  # pydantic's names for the members of a union
MAX_ERRORS = 20
MAX_TEXT = 500


@dataclass(frozen=True)
class ErrorKind:
    """What HTTP says of an error's code."""

    status: int
    title: str


CATALOGUE: dict[str, ErrorKind] = {
    # HTTP's own
    "invalid_request": ErrorKind(422, "The request is not valid"),
    "malformed_body": ErrorKind(400, "The body is not strict JSON"),
    "not_found": ErrorKind(404, "There is no such address"),
    "method_not_allowed": ErrorKind(405, "The address does not know this method"),
    "body_too_large": ErrorKind(413, "The body is too large"),
    "unsupported_media_type": ErrorKind(415, "The body's type is not supported"),
    "range_not_satisfiable": ErrorKind(416, "The range lies outside of the file"),
    "http_error": ErrorKind(400, "The request cannot be answered"),
    # who asks
    "unauthenticated": ErrorKind(401, "The request shows no valid key"),
    "forbidden": ErrorKind(403, "The request is not allowed"),
    "rate_limited": ErrorKind(429, "Too many requests"),
    # the request, the model or the corpus
    "invalid_model_id": ErrorKind(422, "The model id is not valid"),
    "invalid_webhook": ErrorKind(422, "The webhook's address is not allowed"),
    "model_not_found": ErrorKind(404, "There is no such model"),
    "model_too_large": ErrorKind(422, "The model is too large to fetch"),
    "unsafe_model": ErrorKind(422, "The model is not safe to load"),
    "corrupt_checkpoint": ErrorKind(422, "The checkpoint is damaged"),
    "unsupported_model": ErrorKind(422, "The model is not supported"),
    "unsupported_head": ErrorKind(422, "The model's output head is not supported"),
    "baseline_not_finite": ErrorKind(422, "The model's own perplexity is not a number"),
    "corpus_not_found": ErrorKind(404, "There is no such corpus"),
    "corpus_empty": ErrorKind(422, "The corpus is empty"),
    "corpus_not_text": ErrorKind(422, "The corpus is not text"),
    "corpus_too_short": ErrorKind(422, "The corpus is too short"),
    "corpus_too_large": ErrorKind(413, "The corpus is too large"),
    "invalid_token": ErrorKind(422, "A token is not one of the model's"),
    "invalid_selection": ErrorKind(422, "The columns to keep are not valid"),
    "ratio_too_small": ErrorKind(422, "The ratio removes nothing"),
    "models_not_comparable": ErrorKind(422, "The models cannot be compared"),
    "export_unavailable": ErrorKind(422, "The export cannot be made"),
    # the present state
    "job_not_found": ErrorKind(404, "There is no such job"),
    "delivery_not_found": ErrorKind(404, "There is no such delivery"),
    "job_finished": ErrorKind(409, "The job has ended"),
    "report_not_ready": ErrorKind(409, "The job has no report yet"),
    "file_not_found": ErrorKind(404, "There is no such file"),
    "repository_not_found": ErrorKind(404, "There is no such repository"),
    "revision_not_found": ErrorKind(404, "The repository has no such revision"),
    "corpus_in_use": ErrorKind(409, "The corpus is in use"),
    "quota_exceeded": ErrorKind(409, "The owner has as much as it may"),
    "recipe_unknown": ErrorKind(409, "A newer release accepted the job"),
    "job_not_finished": ErrorKind(409, "The job has not ended"),
    "idempotency_key_reused": ErrorKind(422, "The key came with another request before"),
    "request_in_flight": ErrorKind(409, "The same request is being answered"),
    "key_not_found": ErrorKind(404, "There is no such key"),
    "repository_taken": ErrorKind(409, "The repository belongs to another owner"),
    # the machine
    "store_unavailable": ErrorKind(503, "The database does not answer"),
    "queue_unavailable": ErrorKind(503, "The broker does not answer"),
    "hub_unavailable": ErrorKind(503, "The model hub does not answer"),
    "storage_unavailable": ErrorKind(503, "The object store does not answer"),
    "storage_refused": ErrorKind(503, "The object store refuses the service"),
    "disk_full": ErrorKind(507, "The disk is full"),
    "out_of_memory": ErrorKind(500, "Memory ran out"),
    "worker_lost": ErrorKind(500, "The worker was lost"),
    "stored_mismatch": ErrorKind(500, "What was stored is not what was measured"),
    "internal_error": ErrorKind(500, "Something broke on our side"),
}

CODE_OF_STATUS = {400: "malformed_body"} | {
    CATALOGUE[code].status: code
    for code in (
        "not_found",
        "method_not_allowed",
        "body_too_large",
        "unsupported_media_type",
        "range_not_satisfiable",
        "invalid_request",
    )
}


def problem(
    request: Request,
    code: str,
    detail: str,
    errors: Sequence[dict[str, str]] = (),
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An application/problem+json answer. Text that UTF-8 cannot carry is replaced, never a second error."""
    kind = CATALOGUE[code]
    request.state.problem = code
    content = {
        "type": f"urn:headroom:error:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": _encodable(detail),
        "instance": _encodable(request.url.path),
        "code": code,
        "request_id": getattr(request.state, "request_id", None),
        "errors": list(errors),
    }
    headers = headers_of(kind.status) | (headers or {})
    return JSONResponse(content, kind.status, headers, media_type="application/problem+json")


def headers_of(status: int) -> dict[str, str]:
    """Headers that an answer of this status must carry."""
    return {401: CHALLENGE, 503: {"Retry-After": str(RETRY_AFTER_SECONDS)}}.get(status, {})


def install_error_handlers(app: FastAPI) -> None:
    """Exceptions nobody expected are answered in limits.py, where the request id is known."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    if CATALOGUE[error.code].status >= 500:
        logger.warning("%s %s: %s: %s", request.method, request.url.path, error.code, error.message)
    return problem(request, error.code, error.message)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    """Never echoes the input: it may be NaN, or 4 MB."""
    assert isinstance(error, RequestValidationError)
    errors = [_field_error(item) for item in error.errors()[:MAX_ERRORS]]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors[:3])
    return problem(request, "invalid_request", detail, errors)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = CODE_OF_STATUS.get(error.status_code, "http_error")
    return problem(request, code, str(error.detail), headers=dict(error.headers or {}))


def _field_error(item: dict[str, Any]) -> dict[str, str]:
    loc = item["loc"]
    if item["type"] == "union_tag_invalid":
        return {"field": "kind", "message": f"there is no such kind; use one of {', '.join(PHASES)}"}
    if loc[:1] == ("body",) and loc[1:2] and loc[1] in PHASES:
        loc = loc[:1] + loc[2:]  # the kind, by which the members of `Recipe` are told apart
    parts = [str(part) for part in loc if not UNION_TAG.fullmatch(str(part))]
    field = ".".join(parts[1:]) or parts[0]
    return {"field": _encodable(field), "message": _encodable(item["msg"].removeprefix("Value error, "))}


def _encodable(text: str) -> str:
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()
