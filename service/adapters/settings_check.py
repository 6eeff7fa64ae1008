"""`python -m service.adapters.settings_check`: whether the settings of this environment can work, as JSON lines.

Reads, connects and looks; changes nothing but a temporary file in the data directory.
"""

import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from pydantic import ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from service.adapters.remote.celery_queue import CeleryQueue
from service.adapters.remote.otlp_tracing import ENDPOINTS, PROTOCOL, collector, is_installed
from service.adapters.sql.job_store import SqlJobStore
from service.adapters.sql.tables import REVISION
from service.foundation.errors import ServiceError, StorageRefused, StorageUnavailable
from service.foundation.secret_files import SUFFIX
from service.foundation.settings import PREFIX, Settings

if TYPE_CHECKING:
    from service.adapters.files.bucket import Bucket

# Read by the command line or by our tests, not by Settings.
OTHERS = {f"{PREFIX}{name}" for name in ("SERVER", "HOST", "PORT", "KEY", "DEBUG")}
HUB_SECONDS = 5.0
COLLECTOR_SECONDS = 2.0


@dataclass(frozen=True)
class Finding:
    """`detail` says what was found or, where not `ok`, what to do."""

    name: str
    ok: bool
    detail: str


def check(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The settings first; the parts that they name only if all of them can be read."""
    settable = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known = settable | {name + SUFFIX for name in settable} | OTHERS
    for name in sorted(set(environment) - known):
        if name.startswith(PREFIX):
            yield Finding(name, False, "no setting has this name: compare with docs/settings.md")
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = PREFIX + "_".join(str(part) for part in problem["loc"]).upper()
            yield Finding(name if problem["loc"] else "settings", False, problem["msg"])
        return
    yield Finding("settings", True, f"{len(settings.model_fields_set)} set, the others at their defaults")
    yield _data_dir(settings.data_dir)
    yield _models_dir(settings)
    yield _database(settings.database)
    yield _broker(settings.broker_url)
    if settings.storage_url:
        yield _storage(settings.storage_url)
    yield _hub(settings)
    yield _traces(environment)


def _data_dir(path: Path) -> Finding:
    name = f"{PREFIX}DATA_DIR"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            return Finding(name, True, f"{path} can be written")
    except OSError as error:
        return Finding(name, False, f"{path} cannot be written ({error.strerror}): name a folder of this user")


def _models_dir(settings: Settings) -> Finding:
    name, path = f"{PREFIX}MODELS_DIR", settings.local_models_dir
    if path.is_dir() and os.access(path, os.R_OK | os.X_OK):
        return Finding(name, True, f"{path} can be read")
    if settings.models_dir is None:
        return Finding(name, True, "no local models")
    return Finding(name, False, f"{path} is no folder that can be read: local models are <ns>/<name> below it")


def _database(url: str) -> Finding:
    name = f"{PREFIX}DATABASE_URL"
    try:
        shown = make_url(url).render_as_string(hide_password=True)
        store = SqlJobStore(url, lambda: datetime.now(UTC))
    except (SQLAlchemyError, ImportError, ValueError) as error:
        shown = re.sub(r"'[^']*@[^']*'", "the address", str(error))  # it may quote it, with the password in it
        return Finding(name, False, f"{shown}: see docs/settings.md for what it looks like, and for the extra it needs")
    try:
        store.ping()
    except ServiceError as error:
        return Finding(name, False, f"{shown}: {error.message}")
    finally:
        store.close()
    return Finding(name, True, f"{shown} answers, with schema {REVISION}")


def _broker(url: str) -> Finding:
    name = f"{PREFIX}BROKER_URL"
    try:
        CeleryQueue(url).ping()
    except ServiceError as error:
        return Finding(name, False, error.message)
    except Exception as error:  # it may quote the address, with the password in it
        return Finding(name, False, f"this is no address of a broker ({type(error).__name__}): see docs/settings.md")
    return Finding(name, True, "answers")


def _storage(url: str) -> Finding:
    name = f"{PREFIX}STORAGE_URL"
    try:
        from service.adapters.files.bucket import Bucket, describe

        try:
            _try_out(Bucket(url))
        except ServiceError as error:
            return Finding(name, False, f"{error.message} ({describe(error.__cause__ or error)})")
    except ImportError:
        return Finding(name, False, "its library is not installed: pip install 'headroom-lm[s3]'")
    return Finding(name, True, f"{url} can be read and written")


def _try_out(bucket: "Bucket") -> None:
    """One small object, put, read, refused a second time, and removed."""
    bucket.ping()
    key = f"settings-check-{secrets.token_hex(8)}"
    try:
        if not bucket.create(key, b"1") or bucket.read(key) != b"1":
            raise StorageUnavailable("what was stored cannot be read back")
        if bucket.create(key, b"2"):
            raise StorageRefused(
                "this store replaces objects in spite of `If-None-Match: *`: two attempts could publish"
            )
    finally:
        bucket.delete(key)


def _hub(settings: Settings) -> Finding:
    name = f"{PREFIX}HUB_ENDPOINT"
    if not settings.hub_endpoint:
        return Finding(name, True, "none: local models only")
    try:
        answer = httpx.get(settings.hub_endpoint, timeout=HUB_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(name, False, f"{settings.hub_endpoint} does not answer ({error}); empty it to use local models")
    return Finding(name, True, f"{settings.hub_endpoint} answers ({answer.status_code})")


def _traces(environment: Mapping[str, str]) -> Finding:
    address = collector(environment)
    name = next((name for name in ENDPOINTS if environment.get(name)), ENDPOINTS[-1])
    if address is None:
        return Finding(name, True, "none: no traces")
    if not is_installed():
        return Finding(name, False, "OpenTelemetry is not installed; run: pip install 'headroom-lm[tracing]'")
    if environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOL) != PROTOCOL:
        return Finding(name, False, f"traces leave as {PROTOCOL} only: unset OTEL_EXPORTER_OTLP_PROTOCOL")
    try:
        httpx.get(address, timeout=COLLECTOR_SECONDS)  # what it says to a GET does not matter
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(name, False, f"the collector does not answer ({error}); jobs run all the same")
    return Finding(name, True, "answers")


def main() -> None:
    findings = list(check(os.environ))
    for finding in findings:
        sys.stdout.write(json.dumps(asdict(finding)) + "\n")
    sys.exit(0 if all(finding.ok for finding in findings) else 2)


if __name__ == "__main__":
    main()
