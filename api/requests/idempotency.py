"""Idempotency-Key on a route that makes a job: the same key with the same request is answered as the first time."""

import hashlib
from collections.abc import Callable
from typing import Annotated

from fastapi import Header, Response

from api.dependencies import Services
from service.records.callers import Caller
from service.records.job import Job
from service.records.receipts import Answer, KeyedRequest, Receipt, Reservation

REPLAYED = {"Idempotent-Replayed": "true"}

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="makes it safe to send the request again: one job, whatever happens; kept for 24 hours",
    ),
]


def keyed(caller: Caller, route: str, key: str, content: str) -> KeyedRequest:
    """The request under its key. `content`: as it was understood: spaces and the order of fields make no difference."""
    return KeyedRequest(caller.owner, route, key, hashlib.sha256(content.encode()).hexdigest())


def once(
    services: Services,
    request: KeyedRequest | None,
    accept: Callable[[Callable[[Job], Receipt] | None], Job],
    respond: Callable[[Job], Response],
) -> Response:
    """`accept` makes the job and, in one transaction with it, keeps the receipt that it is given the maker of.

    What raises is not kept: the same key may be tried again. IdempotencyKeyReused, RequestInFlight.
    """
    if request is None:
        return respond(accept(None))
    reserved = services.store.reserve(request)
    if not isinstance(reserved, Reservation):
        return _response(reserved)
    try:
        return respond(accept(lambda job: Receipt(reserved, _answer(respond(job)))))
    except BaseException:
        services.store.give_back(reserved)
        raise


def _answer(response: Response) -> Answer:
    headers = {name: value for name, value in response.headers.items() if name == "location"}
    return {
        "status": response.status_code,
        "headers": headers,
        "media_type": response.media_type,
        "body": bytes(response.body).decode(),
    }


def _response(answer: Answer) -> Response:
    headers = answer["headers"] | REPLAYED
    return Response(answer["body"], answer["status"], headers, media_type=answer["media_type"])
