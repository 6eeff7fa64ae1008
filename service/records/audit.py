"""The audit log: who did what to which object, when, and how it ended. Entries are added, never changed."""

from dataclasses import dataclass
from datetime import datetime

# What is recorded; docs/operations.md says what each means.
ACTIONS = (
    *("job.post", "job.cancel", "job.delete", "delivery.replay", "corpus.upload", "corpus.delete", "file.download"),
    *("session.open", "key.create", "key.revoke", "authenticate"),
)


@dataclass(frozen=True)
class AuditEntry:
    """`key_id` and `owner` are None where nobody showed a key. `object` is a path of the API, or the id of a key."""

    time: datetime
    action: str
    object: str
    outcome: str  # "ok", or the code of the refusal
    owner: str | None = None
    key_id: str | None = None
    request_id: str | None = None
    address: str | None = None
    number: int = 0  # given by the log; grows


@dataclass(frozen=True)
class AuditFilter:
    """Which entries to list; None means any."""

    owner: str | None = None
    action: str | None = None


@dataclass(frozen=True)
class AuditPage:
    entries: list[AuditEntry]
    has_more: bool
