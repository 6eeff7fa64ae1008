"""What is told of a job by webhook, when, and how often it is tried. No storage, no network, no clock.

Format and signature: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from standardwebhooks.webhooks import Webhook as Signer

from headroom.contract.answers.job import Status
from headroom.contract.webhook import Webhook, WebhookEvent
from service.records.job import Job
from service.records.transitions import Change

# Pauses after each failed attempt, seconds: as the specification suggests, 27 hours in all.
PAUSES = (5, 300, 1800, 7200, 18_000, 36_000, 36_000)
JITTER = 0.25  # of a pause, added at random, so that what failed together does not come back together
MAX_ERROR = 300  # characters kept of why an attempt failed


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # every attempt that is allowed has failed, or the address is refused
    DISABLED = "disabled"  # the receiver answered 410 Gone


class Outcome(StrEnum):
    """How one attempt ended."""

    DELIVERED = "delivered"
    FAILED = "failed"
    REFUSED = "refused"  # by us: the address is none that may be reached
    GONE = "gone"


@dataclass(frozen=True)
class Delivery:
    """One message to one job's webhook. Numbers start at 1 within a job."""

    job_id: str
    number: int
    message_id: str  # the webhook-id header: the same at every attempt and replay
    type: str
    payload: str  # the body, byte for byte as it is signed
    created: datetime
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    next_attempt: datetime | None = None
    last_attempt: datetime | None = None
    response_status: int | None = None
    error: str | None = None
    replay_of: int | None = None


@dataclass(frozen=True)
class Attempt:
    """What one attempt came to."""

    outcome: Outcome
    response_status: int | None = None
    error: str | None = None


def new_deliveries(change: Change, first_number: int, now: datetime) -> list[Delivery]:
    """The messages that a change of a job calls for; none without a webhook."""
    webhook = change.job.recipe.webhook
    if webhook is None:
        return []
    types = [type_ for type_ in map(_type_of, change.events) if type_ in webhook.events]
    return [
        Delivery(
            job_id=change.job.id,
            number=number,
            message_id=f"msg_{secrets.token_hex(16)}",
            type=type_.value,
            payload=_payload(change.job, type_, now),
            created=now,
            next_attempt=now,
        )
        for number, type_ in enumerate(types, start=first_number)
    ]


def replayed(delivery: Delivery, number: int, now: datetime) -> Delivery:
    """The same message once more; its id tells the receiver that it is the same."""
    return replace(
        delivery,
        number=number,
        created=now,
        status=DeliveryStatus.PENDING,
        attempts=0,
        next_attempt=now,
        last_attempt=None,
        response_status=None,
        error=None,
        replay_of=delivery.number,
    )


def after_attempt(delivery: Delivery, attempt: Attempt, now: datetime, random: Callable[[], float]) -> Delivery:
    """`delivery.attempts` counts this attempt already; `random` gives 0 to 1."""
    status = {
        Outcome.DELIVERED: DeliveryStatus.DELIVERED,
        Outcome.REFUSED: DeliveryStatus.FAILED,
        Outcome.GONE: DeliveryStatus.DISABLED,
        Outcome.FAILED: DeliveryStatus.PENDING if delivery.attempts <= len(PAUSES) else DeliveryStatus.FAILED,
    }[attempt.outcome]
    next_attempt = None
    if status is DeliveryStatus.PENDING:
        pause = PAUSES[delivery.attempts - 1] * (1 + JITTER * random())
        next_attempt = now + timedelta(seconds=pause)
    return replace(
        delivery,
        status=status,
        next_attempt=next_attempt,
        response_status=attempt.response_status,
        error=attempt.error and attempt.error[:MAX_ERROR],
    )


def signed_headers(delivery: Delivery, webhook: Webhook, now: datetime) -> dict[str, str]:
    """Headers of one attempt. Signature: HMAC-SHA256 over "id.timestamp.body". now: in UTC."""
    signature = Signer(webhook.signing_key).sign(delivery.message_id, now, delivery.payload)
    return {
        "Content-Type": "application/json",
        "User-Agent": "headroom-webhooks",
        "webhook-id": delivery.message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }


def _type_of(event: tuple[str, dict[str, object]]) -> WebhookEvent | None:
    kind, data = event
    if kind == "phase":
        return WebhookEvent.PHASE
    if kind != "status":
        return None
    status = data["status"]
    if status == Status.RUNNING.value:
        return WebhookEvent.STARTED
    return next((type_ for type_ in WebhookEvent if type_.value == f"job.{status}"), None)


def _payload(job: Job, type_: WebhookEvent, now: datetime) -> str:
    error = job.error and {"code": job.error.code, "message": job.error.message, "phase": job.error.phase}
    data = {
        "id": job.id,
        "kind": job.recipe.kind,
        "model": job.recipe.model.id,
        "labels": job.recipe.labels,
        "status": job.status,
        "phase": job.phase,
        "attempt": job.attempt,
        "error": error,
        "result": job.result,
    }
    message = {"type": type_, "timestamp": now.isoformat().replace("+00:00", "Z"), "data": data}
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
