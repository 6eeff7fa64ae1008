"""`python -m api.main --host --port`: the API process. The only place of api/ where real adapters are chosen."""

import argparse
import sys
from contextlib import suppress
from datetime import UTC, datetime

import uvicorn
from anyio import CapacityLimiter
from fastapi import FastAPI
from pydantic import ValidationError

from api.answers.http_protocol import http_protocol
from api.app import create_app
from api.dependencies import Services
from api.live.draining import DrainingServer
from api.requests.loopback import is_loopback
from service.adapters.files.storage import open_storage
from service.adapters.remote.celery_queue import CeleryQueue
from service.adapters.remote.chained_models import open_models
from service.adapters.remote.otlp_tracing import open_tracer
from service.adapters.remote.rate_limits import RateLimits
from service.adapters.sql.audit import SqlAudit
from service.adapters.sql.database import Database
from service.adapters.sql.holds import SqlHolds
from service.adapters.sql.job_store import SqlJobStore
from service.adapters.sql.keys import SqlKeys
from service.foundation.errors import StorageRefused
from service.foundation.logs import configure_logging
from service.foundation.settings import Settings
from service.records.quotas import NO_QUOTAS, Quotas

PARALLEL_UPLOADS = 8
SHUTDOWN_SECONDS = 10


def build_services(settings: Settings, host: str = "127.0.0.1") -> Services:
    """Connects lazily: what is away shows at the first call that needs it."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database)
    is_open = settings.auth == "open" or (settings.auth == "auto" and is_loopback(host))
    storage = open_storage(settings, _utc_now)
    return Services(
        store=SqlJobStore(database, _utc_now),
        keys=SqlKeys(database, _utc_now),
        holds=SqlHolds(database, _utc_now),
        audit=SqlAudit(database),
        queue=CeleryQueue(settings.broker_url),
        artifacts=storage.artifacts,
        corpora=storage.corpora,
        models=open_models(settings),
        clock=_utc_now,
        data_dir=settings.data_dir,
        max_body_bytes=settings.max_body_bytes,
        max_corpus_bytes=settings.max_corpus_bytes,
        uploads=CapacityLimiter(PARALLEL_UPLOADS),
        may_tell_plainly=bool(settings.allowed_networks),
        tracer=open_tracer("headroom-api"),
        is_open=is_open,
        quotas=NO_QUOTAS if is_open else Quotas(settings.max_owner_jobs, settings.max_owner_bytes),
        limiter=RateLimits(settings.rate_limit, settings.broker_url) if settings.rate_limit and not is_open else None,
    )


def build_app(settings: Settings, host: str = "127.0.0.1") -> FastAPI:
    """`host` is where it will listen: on a loopback address it may be open."""
    return create_app(build_services(settings, host))


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM. The schema must be there already: `python -m service.adapters.migrate`."""
    parser = argparse.ArgumentParser(prog="python -m api.main", description="The API server of Headroom.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    try:
        settings = Settings()
    except ValidationError as error:
        sys.exit(f"A setting is not valid: {error}")
    configure_logging(settings.log_format)
    if settings.auth == "open" and not is_loopback(options.host):
        sys.exit(
            f"Refusing to listen on {options.host} with HEADROOM_AUTH=open: anyone who reaches it could use it. "
            "Listen on 127.0.0.1, or leave HEADROOM_AUTH out and make keys with `headroom keys create`."
        )
    try:
        services = build_services(settings, options.host)
    except StorageRefused as error:
        sys.exit(error.message)
    app = create_app(services)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=http_protocol(),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    server = DrainingServer(config, services.draining, settings.drain_seconds, app.state.live)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(3)  # uvicorn has said why


def _utc_now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
