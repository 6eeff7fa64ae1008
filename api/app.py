"""The FastAPI application. Makes no connection and reads no setting: everything comes in with `services`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from api.answers.job_answers import JobAnswers
from api.dependencies import Services
from api.documents.openapi import openapi_of
from api.errors import install_error_handlers
from api.live.live_jobs import LiveJobs
from api.live.metrics import CountRequests, RequestFigures, ServiceState
from api.live.tracing import trace_requests
from api.requests.audit import Audit
from api.requests.head import AnswerHead
from api.requests.limits import BodyLimit, RequestIds
from api.requests.rate_limits import RateLimitHeaders
from api.routes import audit, corpora, deliveries, events, files, health, hub, jobs, metrics, models, session
from api.routes.pages import install_pages

DESCRIPTION = "Slice the output head of a language model, and prove that its predictions did not move."


def create_app(services: Services) -> FastAPI:
    """Closes store and tracer when the server stops."""

    live = LiveJobs(services.store, services.clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await live.stop()
        services.store.close()
        services.tracer.close()

    app = FastAPI(
        title="Headroom",
        version=version("headroom-lm"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.services = services
    app.state.live = live
    app.state.answers = JobAnswers(services.store)
    app.state.registry = registry = CollectorRegistry()
    registry.register(ServiceState(services))
    jobs.install_read(app)
    for module in (jobs, events, deliveries, files, corpora, models, audit, session, hub, health, metrics):
        app.include_router(module.router)
    install_pages(app)
    app.add_middleware(AnswerHead, router=app.router)  # the innermost
    app.add_middleware(
        BodyLimit,
        max_bytes=services.max_body_bytes,
        upload_path=corpora.UPLOAD_PATH,
        max_upload_bytes=services.max_corpus_bytes,
    )
    if services.limiter is not None:
        app.add_middleware(RateLimitHeaders)
    app.add_middleware(Audit, services=services)
    app.add_middleware(CountRequests, figures=RequestFigures(registry))
    app.add_middleware(RequestIds)  # added last: it is the outermost
    install_error_handlers(app)
    trace_requests(app, services.tracer)
    app.openapi = partial(openapi_of, app)  # type: ignore[method-assign]
    return app
