"""Turn whatever an attempt raised into one typed error. Decides nothing about jobs, writes nothing.

Works on names and messages where a class lives in torch or safetensors: this module must load without them.
"""

import errno
from collections.abc import Iterator

from service.foundation.errors import (
    DiskFull,
    HubUnavailable,
    InternalError,
    OutOfMemory,
    QueueUnavailable,
    ServiceError,
    StorageRefused,
    StorageUnavailable,
    StoreUnavailable,
)

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
# The words of Rust's io::Error (safetensors) and of SQLite, which carry no errno.
NO_SPACE_WORDS = ("no space left on device", "(os error 28)", "disk quota exceeded", "disk is full")
# torch.OutOfMemoryError is known by its name; the CPU allocator raises a plain RuntimeError.
NO_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "cuda out of memory")

# A later attempt may succeed without anybody changing anything.
RETRYABLE = (StoreUnavailable, QueueUnavailable, HubUnavailable, StorageUnavailable, StorageRefused)


def as_service_error(raised: BaseException) -> ServiceError:
    """The typed error for `raised`, looking through its causes. Unknown ones become InternalError."""
    if isinstance(raised, ServiceError):
        return raised
    for link in _chain(raised):
        if isinstance(link, ServiceError):
            return link
        if _is_disk_full(link):
            return DiskFull("the disk of the worker is full; free some space and post the job again")
        if _is_out_of_memory(link):
            return OutOfMemory(
                "the worker ran out of memory; use a smaller model or fewer tokens, or give the worker more memory"
            )
    name = type(raised).__name__
    return InternalError(f"a defect of the service ended this work ({name}); its traceback is in the worker's log")


def is_retryable(error: ServiceError) -> bool:
    return isinstance(error, RETRYABLE)


def _chain(raised: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = raised
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _is_disk_full(raised: BaseException) -> bool:
    if isinstance(raised, OSError) and raised.errno in NO_SPACE:
        return True
    return isinstance(raised, Exception) and any(words in str(raised).lower() for words in NO_SPACE_WORDS)


def _is_out_of_memory(raised: BaseException) -> bool:
    if isinstance(raised, MemoryError) or type(raised).__name__ == "OutOfMemoryError":
        return True
    if isinstance(raised, OSError) and raised.errno == errno.ENOMEM:
        return True
    return isinstance(raised, RuntimeError) and any(words in str(raised).lower() for words in NO_MEMORY_WORDS)
