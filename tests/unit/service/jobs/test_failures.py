"""Whatever an attempt raises becomes one typed error."""

import errno

import pytest

from service.foundation.errors import (
    DiskFull,
    HubUnavailable,
    InternalError,
    ModelNotFound,
    OutOfMemory,
    StoreUnavailable,
)
from service.jobs.failures import as_service_error, is_retryable


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), DiskFull),
        (MemoryError(), OutOfMemory),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemory),
        (OutOfMemoryError("CUDA"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), OutOfMemory),
        (ValueError("shape"), InternalError),
        (OSError(errno.EIO, "Input/output error"), InternalError),
    ],
)
def test_machine_failures_are_told_apart(raised: Exception, expected: type[Exception]) -> None:
    assert type(as_service_error(raised)) is expected


def test_a_typed_error_stays_itself() -> None:
    error = ModelNotFound("no such model")

    assert as_service_error(error) is error


def test_the_cause_behind_a_wrapper_is_found() -> None:
    wrapped = ValueError("could not save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")

    assert isinstance(as_service_error(wrapped), DiskFull)


def test_only_services_that_come_back_are_tried_again() -> None:
    assert is_retryable(HubUnavailable("away"))
    assert is_retryable(StoreUnavailable("away"))
    assert not is_retryable(DiskFull("full"))
    assert not is_retryable(ModelNotFound("no"))
