"""Where a job's owner wants to be told of it. What is sent, and how, is service/records/webhooks.py."""

import base64
import binascii
import secrets
from enum import StrEnum
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

SECRET_PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)  # as the Standard Webhooks specification has it


class WebhookEvent(StrEnum):
    STARTED = "job.started"
    PHASE = "job.phase"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    REJECTED = "job.rejected"
    CANCELED = "job.canceled"


ENDINGS = (WebhookEvent.SUCCEEDED, WebhookEvent.FAILED, WebhookEvent.REJECTED, WebhookEvent.CANCELED)


class Webhook(BaseModel):
    """`secret` signs the deliveries. It is left out of everything that is written from here."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: Annotated[str, Field(max_length=2000)]
    secret: Annotated[str | None, Field(exclude=True, repr=False)] = None
    events: Annotated[
        list[Annotated[WebhookEvent, Field(strict=False)]], Field(min_length=1, max_length=len(WebhookEvent))
    ] = list(ENDINGS)

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        problem = "a webhook's url is http(s)://host[:port]/path, in ASCII, without user, password or fragment"
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(problem)
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise ValueError(problem) from None
        if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
            raise ValueError(problem)
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise ValueError(problem)
        return value

    @field_validator("secret")
    @classmethod
    def _is_a_signing_secret(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith(SECRET_PREFIX) or len(_decoded(value)) not in SECRET_BYTES):
            raise ValueError("a webhook's secret is whsec_ and the base64 of 24 to 64 bytes; left out, one is made")
        return value

    @property
    def signing_key(self) -> bytes:
        assert self.secret is not None, "a stored webhook has a secret"
        return _decoded(self.secret)

    def with_new_secret(self) -> Self:
        secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        return self.model_copy(update={"secret": secret})


def _decoded(secret: str) -> bytes:
    """Empty if it is no base64; padding may be missing."""
    text = secret.removeprefix(SECRET_PREFIX)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
