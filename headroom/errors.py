"""What a caller of the client may want to catch. No HTTP is done here.

HeadroomError                   a stable `code` and one sentence; made from the server's problem+json, or locally
├── ServerUnreachable           no answer: nothing listens there, or the connection broke
├── WaitTimeout                 `job.wait(timeout=...)` ran out; the job goes on
├── InvalidArgument             a path, id or setting that cannot work, found before anything was sent
└── DownloadError               what arrived is not what the server announced, or must not be written
"""

from dataclasses import dataclass
from typing import ClassVar

# Codes with which a job fails, or a request is refused, because of what was asked for (the service has its own in
# service/foundation/errors.py).
BAD_INPUT_CODES = frozenset(
    {
        "baseline_not_finite",
        "corpus_empty",
        "corpus_not_found",
        "corpus_not_text",
        "corpus_too_large",
        "corpus_too_short",
        "corrupt_checkpoint",
        "export_unavailable",
        "forbidden",
        "idempotency_key_reused",
        "invalid_argument",
        "invalid_model_id",
        "invalid_selection",
        "invalid_token",
        "invalid_webhook",
        "key_not_found",
        "model_not_found",
        "model_too_large",
        "models_not_comparable",
        "ratio_too_small",
        "repository_taken",
        "unauthenticated",
        "unsafe_model",
        "unsupported_head",
        "unsupported_model",
    }
)
BAD_INPUT_STATUSES = frozenset({400, 404, 405, 411, 413, 414, 415, 422, 431})


@dataclass(frozen=True)
class FieldError:
    """One field of a refused request, as the server names it."""

    field: str
    message: str


class HeadroomError(Exception):
    """A failure with a stable code and one sentence that says what to do."""

    default_code: ClassVar[str] = "unexpected_response"

    def __init__(
        self,
        message: str,
        code: str | None = None,
        *,
        status: int | None = None,
        request_id: str | None = None,
        errors: tuple[FieldError, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.status = status  # of the HTTP answer, if there was one
        self.request_id = request_id
        self.errors = errors

    @property
    def is_bad_input(self) -> bool:
        """Whether the same request would fail again: the caller has to change something."""
        return self.code in BAD_INPUT_CODES or self.status in BAD_INPUT_STATUSES

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"


class ServerUnreachable(HeadroomError):
    default_code = "server_unreachable"


class WaitTimeout(HeadroomError, TimeoutError):
    default_code = "wait_timeout"


class InvalidArgument(HeadroomError):
    default_code = "invalid_argument"


class DownloadError(HeadroomError):
    default_code = "download_failed"
