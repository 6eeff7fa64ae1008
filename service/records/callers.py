"""Who asks, and what they may do: keys, scopes, owners. No storage and no HTTP.

A key is 256 random bits, so what is stored of it is a plain sha256: nobody can try so many keys, and a slow hash, which
protects what people make up themselves, would only cost time at every request.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

LOCAL_OWNER = "local"  # of everything that is made while no key is asked for
OWNER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SECRET = re.compile(r"hr_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
SECRET_BYTES = 32


class Scope(StrEnum):
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ARTIFACTS_READ = "artifacts:read"
    ADMIN = "admin"  # everything, of every owner


@dataclass(frozen=True)
class Key:
    """What is known of a key; its secret is not."""

    id: str  # "key_" + 16 hex digits
    name: str
    owner: str
    scopes: frozenset[Scope]
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    last_used: datetime | None = None  # roughly: written once in a while

    def is_valid(self, now: datetime) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True)
class Caller:
    """The one who sent a request. `key_id` is None on a server that asks for no key."""

    owner: str
    scopes: frozenset[Scope]
    key_id: str | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def sees(self) -> str | None:
        """Whose jobs and corpora exist for this caller; None: everybody's."""
        return None if Scope.ADMIN in self.scopes else self.owner


LOCAL_CALLER = Caller(LOCAL_OWNER, frozenset(Scope))


def new_secret() -> tuple[str, str]:
    """The id of a new key, and its secret, in which the id stands: a leaked one can be told and revoked."""
    number = secrets.token_hex(8)
    return f"key_{number}", f"hr_{number}_{secrets.token_urlsafe(SECRET_BYTES)}"


def key_id_of(secret: str) -> str | None:
    match = SECRET.fullmatch(secret)
    return f"key_{match[1]}" if match else None


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
