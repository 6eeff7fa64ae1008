"""Everything that can go wrong, as one tree. No HTTP status here: api/errors.py maps codes to statuses.

ServiceError
├── UserError                  the request, the model or the corpus is at fault; trying again changes nothing
│   ├── InvalidModelId         the id is not of the form ns/name
│   ├── ModelNotFound          no local model, and no hub has it
│   ├── ModelTooLarge          over the size cap for fetched models
│   ├── UnsafeModel            remote code, kernel repository or pickle weights
│   ├── CorruptCheckpoint      safetensors or config truncated, inconsistent or missing
│   ├── UnsupportedModel       transformers cannot build it, or it is no language model
│   ├── UnsupportedHead        f(W h + b) does not reproduce the model's own logits
│   ├── ModelDrift             the model's own perplexity is not a number
│   ├── CorpusNotFound         no such corpus id
│   ├── CorpusEmpty            no text in it
│   ├── CorpusNotText          not UTF-8, or not the JSON lines it claims to be
│   ├── CorpusTooShort         fewer than one calibration and one evaluation window
│   ├── CorpusTooLarge         over the upload cap, also after decompression
│   ├── InvalidToken           a token to steer is no single token of the model
│   ├── InvalidSelection       columns to keep are out of range
│   ├── RatioTooSmall          the ratio removes no column after rounding
│   ├── ModelsNotComparable    two models to compare read or predict different tokens
│   ├── InvalidWebhook         its address may not be told anything
│   └── ExportUnavailable      the model or the worker cannot make an export that was asked for
├── AccessError                the one who asks may not, or did not show who it is
│   ├── Unauthenticated        no key, or one that is not valid
│   ├── RateLimited            too many requests of this owner in a while
│   └── Forbidden              the key lacks a scope, or the request came from another site
├── StateError                 the request is well-formed but does not fit the present state
│   ├── JobNotFound
│   ├── DeliveryNotFound       the job has sent no such message
│   ├── JobFinished            cancel on a job that has ended
│   ├── ReportNotReady         the job has measured nothing yet
│   ├── FileNotFound           the job has no such file
│   ├── RepositoryNotFound     nothing was published under this name
│   ├── RevisionNotFound       the repository has no such commit or tag
│   ├── CorpusInUse            a queued or running job still reads it
│   ├── QuotaExceeded          the owner has as many jobs or bytes as it may
│   ├── RecipeUnknown          a newer release of the service accepted the job
│   ├── JobNotFinished         delete of a job that has not ended
│   ├── IdempotencyKeyReused   the key came with another request before
│   ├── RequestInFlight        the same request is being answered
│   ├── KeyNotFound            to be revoked, but there is no such key
│   └── RepositoryTaken        another owner publishes under this name
└── InfrastructureError        the machine failed, not the user; a later attempt may succeed
    ├── StoreUnavailable       the database does not answer
    ├── QueueUnavailable       the broker does not answer
    ├── HubUnavailable         the model hub does not answer
    ├── StorageUnavailable     the object store does not answer
    ├── StorageRefused         the object store refuses our credentials, or has no such bucket
    ├── DiskFull
    ├── OutOfMemory
    ├── WorkerLost             the lease lapsed: the worker died or was cut off
    ├── StoredMismatch         the stored checkpoint does not reproduce what was measured
    └── InternalError          a defect of ours

JobCanceled and AttemptSuperseded are signals inside a worker, not errors a user sees.
"""

from typing import ClassVar


class ServiceError(Exception):
    """A failure with a stable code and one sentence that says what to do."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UserError(ServiceError):
    """The request, the model or the corpus is at fault."""


class InvalidWebhook(UserError):
    code = "invalid_webhook"


class InvalidModelId(UserError):
    code = "invalid_model_id"


class ModelNotFound(UserError):
    code = "model_not_found"


class ModelTooLarge(UserError):
    code = "model_too_large"


class UnsafeModel(UserError):
    code = "unsafe_model"


class CorruptCheckpoint(UserError):
    code = "corrupt_checkpoint"


class UnsupportedModel(UserError):
    code = "unsupported_model"


class UnsupportedHead(UserError):
    code = "unsupported_head"


class ModelDrift(UserError):
    code = "baseline_not_finite"


class CorpusNotFound(UserError):
    code = "corpus_not_found"


class CorpusEmpty(UserError):
    code = "corpus_empty"


class CorpusNotText(UserError):
    code = "corpus_not_text"


class CorpusTooShort(UserError):
    code = "corpus_too_short"


class CorpusTooLarge(UserError):
    code = "corpus_too_large"


class InvalidToken(UserError):
    code = "invalid_token"


class InvalidSelection(UserError):
    code = "invalid_selection"


class RatioTooSmall(UserError):
    code = "ratio_too_small"


class ModelsNotComparable(UserError):
    code = "models_not_comparable"


class ExportUnavailable(UserError):
    code = "export_unavailable"


class AccessError(ServiceError):
    """The one who asks may not, or did not show who it is."""


class Unauthenticated(AccessError):
    code = "unauthenticated"


class RateLimited(AccessError):
    code = "rate_limited"


class Forbidden(AccessError):
    code = "forbidden"


class StateError(ServiceError):
    """Well-formed, but it does not fit the present state."""


class DeliveryNotFound(StateError):
    code = "delivery_not_found"


class JobNotFound(StateError):
    code = "job_not_found"


class JobFinished(StateError):
    code = "job_finished"


class ReportNotReady(StateError):
    code = "report_not_ready"


class FileNotFound(StateError):
    code = "file_not_found"


class RepositoryNotFound(StateError):
    code = "repository_not_found"


class RevisionNotFound(StateError):
    code = "revision_not_found"


class CorpusInUse(StateError):
    code = "corpus_in_use"


class QuotaExceeded(StateError):
    code = "quota_exceeded"


class RecipeUnknown(StateError):
    code = "recipe_unknown"


class JobNotFinished(StateError):
    code = "job_not_finished"


class IdempotencyKeyReused(StateError):
    code = "idempotency_key_reused"


class RequestInFlight(StateError):
    code = "request_in_flight"


class KeyNotFound(StateError):
    code = "key_not_found"


class RepositoryTaken(StateError):
    code = "repository_taken"


class InfrastructureError(ServiceError):
    """The machine failed, not the user."""


class StoreUnavailable(InfrastructureError):
    code = "store_unavailable"


class QueueUnavailable(InfrastructureError):
    code = "queue_unavailable"


class HubUnavailable(InfrastructureError):
    code = "hub_unavailable"


class StorageUnavailable(InfrastructureError):
    code = "storage_unavailable"


class StorageRefused(InfrastructureError):
    code = "storage_refused"


class DiskFull(InfrastructureError):
    code = "disk_full"


class OutOfMemory(InfrastructureError):
    code = "out_of_memory"


class WorkerLost(InfrastructureError):
    code = "worker_lost"


class StoredMismatch(InfrastructureError):
    code = "stored_mismatch"


class InternalError(InfrastructureError):
    code = "internal_error"


class JobCanceled(Exception):
    """Raised at a progress point once cancellation was asked for."""


class AttemptSuperseded(Exception):
    """This attempt's fence is gone: another attempt owns the job, and nothing may be written."""
