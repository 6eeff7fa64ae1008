"""The JSON that the API alone answers with: deliveries, sessions, the audit log, health, errors.

What clients have records of is headroom/contract/answers/; what is accepted, headroom/contract/. Errors are
api/errors.py.
"""

from datetime import datetime
from typing import Self

from pydantic import Field

from headroom.contract.answers.answer import Answer
from service.records.webhooks import Delivery, DeliveryStatus


class DeliveryView(Answer):
    number: int
    message_id: str = Field(description="the webhook-id header")
    type: str
    status: DeliveryStatus
    created: datetime
    attempts: int
    next_attempt: datetime | None
    last_attempt: datetime | None
    response_status: int | None
    error: str | None = Field(description="why the last attempt failed")
    replay_of: int | None

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        return cls.model_validate(delivery)


class DeliveryList(Answer):
    data: list[DeliveryView]


class SessionView(Answer):
    open: bool = Field(description="the server asks nobody for a key")
    owner: str | None
    key_id: str | None
    scopes: list[str]


class AuditEntryView(Answer):
    number: int
    time: datetime
    action: str
    object: str
    outcome: str
    owner: str | None
    key_id: str | None
    request_id: str | None
    address: str | None


class AuditList(Answer):
    data: list[AuditEntryView]
    has_more: bool


class CheckView(Answer):
    ok: bool
    detail: str


class ReadinessView(Answer):
    ready: bool
    checks: dict[str, CheckView]


class LivenessView(Answer):
    status: str


class FieldErrorView(Answer):
    field: str
    message: str


class Problem(Answer):
    """RFC 9457, as application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | None
    errors: list[FieldErrorView]
