"""Bucket: objects of an S3-compatible store by name, below one prefix. Knows neither jobs nor corpora.

Addresses and credentials come from where every S3 client looks for them: AWS_* variables, else the files of AWS_PROFILE
(~/.aws), else the machine's role. Whatever goes wrong is StorageUnavailable (try again) or StorageRefused (an operator
must act).
"""

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from service.foundation.errors import StorageRefused, StorageUnavailable

# A wrong region is a 400, and lists have no exceptions of their own for these.
REFUSALS = re.compile(r"status code: 40[013] ")

logger = logging.getLogger(__name__)

PART_BYTES = 16 << 20  # of a multipart upload: 10,000 parts hold 160 GB
PARTS_AT_ONCE = 4
READ_BYTES = 8 << 20  # of one request while reading; each is sent again if the connection breaks
CLIENT = {"connect_timeout": "5s", "timeout": "60s"}  # of one request, so of one part
RETRIES = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=4), "base": 2},
}
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
# Any of these says where credentials come from; without them the files of the user are asked.
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)


@dataclass(frozen=True)
class Entry:
    """An object in a list."""

    key: str
    modified: datetime


class Bucket:
    """`url`: s3://bucket or s3://bucket/prefix. Connects at the first call.

    public_endpoint: where clients reach the same bucket, for links; empty: at the same address as this process.
    """

    def __init__(self, url: str, public_endpoint: str = "") -> None:
        self.url = url
        endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
        self._store = _open(url, endpoint)
        self._public = _open(url, public_endpoint) if public_endpoint else self._store

    def put(self, key: str, content: bytes) -> None:
        with _typed_errors(self.url):
            obstore.put(self._store, key, content)

    def create(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one of this name (`If-None-Match: *`); whether it was put."""
        with _typed_errors(self.url):
            try:
                obstore.put(self._store, key, content, mode="create")
            except (AlreadyExistsError, PreconditionError):
                # A request that was sent again after a lost answer meets its own object.
                return obstore.get(self._store, key).bytes().to_bytes() == content
        return True

    def upload(self, key: str, path: Path, attributes: dict[str, str]) -> None:
        """A file of any size; in parts, some at a time, if it is large."""
        with _typed_errors(self.url):
            obstore.put(
                self._store,
                key,
                path,
                attributes=attributes,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    def read(self, key: str) -> bytes | None:
        """The content of an object; None if there is no such object."""
        with _typed_errors(self.url):
            try:
                return obstore.get(self._store, key).bytes().to_bytes()
            except FileNotFoundError as error:
                _refuse_missing_bucket(error, self.url)
                return None

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is no such one."""
        with _typed_errors(self.url):
            try:
                return int(obstore.head(self._store, key)["size"])
            except FileNotFoundError as error:
                _refuse_missing_bucket(error, self.url)
                return None

    def open(self, key: str, start: int, end: int) -> BinaryIO:
        """The bytes from `start` up to `end`, read some megabytes at a time. Its first ones are read here, so that an
        object that cannot be had is told now: FileNotFoundError."""
        opened = io.BufferedReader(_Ranges(self, key, start, end), READ_BYTES)
        opened.peek(1)
        return cast(BinaryIO, opened)

    def range(self, key: str, start: int, end: int) -> bytes:
        with _typed_errors(self.url):
            return obstore.get_range(self._store, key, start=start, end=end).to_bytes()

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Every object whose name begins with `prefix`, which ends with a slash."""
        with _typed_errors(self.url):
            for page in obstore.list(self._store, prefix):
                for found in page:
                    yield Entry(found["path"], found["last_modified"])

    def delete(self, *keys: str) -> None:
        """Those that are not there are ignored."""
        if keys:
            with _typed_errors(self.url):
                obstore.delete(self._store, list(keys))

    def link(self, key: str, seconds: float) -> str:
        """A URL by which anyone can GET the object for a while."""
        with _typed_errors(self.url):
            return obstore.sign(self._public, "GET", key, timedelta(seconds=seconds))

    def ping(self) -> None:
        """Raise unless the bucket answers and these credentials may list it."""
        for _ in self.entries("no-such-folder/"):
            return


class _Ranges(io.RawIOBase):
    """One object, or a part of it, by ranges."""

    def __init__(self, bucket: Bucket, key: str, start: int, end: int) -> None:
        self._bucket = bucket
        self._key = key
        self._at = start
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._end - self._at)
        if count <= 0:
            return 0
        content = self._bucket.range(self._key, self._at, self._at + count)
        view[: len(content)] = content
        self._at += len(content)
        return len(content)


def _open(url: str, endpoint: str) -> S3Store:
    parts = urlsplit(url)
    options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    provider = _provider_of_files()
    if provider is not None:
        options["credential_provider"] = provider
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        client_options=CLIENT | {"allow_http": endpoint.startswith("http://")},  # type: ignore[arg-type]
        retry_config=RETRIES,  # type: ignore[arg-type]
        **options,
    )


def _provider_of_files() -> Any | None:
    """Credentials of ~/.aws/credentials and ~/.aws/config, or of what AWS_PROFILE names there."""
    if any(os.environ.get(name) for name in CREDENTIALS):
        return None
    names = [("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config")]
    if not any(Path(os.environ.get(name, default)).expanduser().is_file() for name, default in names):
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except Exception as error:  # botocore has many: no such profile, a file that cannot be parsed, no credentials
        raise StorageRefused(f"the credentials of the object store cannot be read: {error}") from error


@contextmanager
def _typed_errors(url: str) -> Iterator[None]:
    """An object that is not there stays FileNotFoundError, unless the whole bucket is not."""
    try:
        yield
    except FileNotFoundError as error:
        _refuse_missing_bucket(error, url)
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise _refused(error, url) from error
    except (BaseError, ValueError, OSError) as error:
        _refuse_missing_bucket(error, url)
        if REFUSALS.search(str(error)):
            raise _refused(error, url) from error
        # For the log only: it names hosts, which the one who asks need not know.
        logger.warning("%s does not answer: %s", url, describe(error))
        raise StorageUnavailable("the object store does not answer; try again in a few seconds") from error


def _refused(error: Exception, url: str) -> StorageRefused:
    logger.warning("%s refuses the credentials of this process: %s", url, describe(error))
    return StorageRefused("the object store refuses this service's credentials; the service's operator must act")


def _refuse_missing_bucket(error: Exception, url: str) -> None:
    if "NoSuchBucket" in str(error):
        logger.warning("the bucket of %s does not exist", url)
        raise StorageRefused("the object store has no such bucket; the service's operator must act") from error


def describe(error: BaseException) -> str:
    """The first line; the library's messages go on with the whole answer and its own state."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
