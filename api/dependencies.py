"""What routes work with. Built once, in main.py or a test, and handed to create_app; nothing here opens anything.

Every route that is not for everybody takes a `Caller` (AnyCaller, JobsReader, ...) or `needs(Scope...)`; one about a
job takes `VisibleJob` and asks the store for nothing by an id that a client sent; only the one asked most, which
reads a job, looks for itself. A test walks all routes.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.base import SecurityBase

from api.live.live_jobs import LiveJobs
from api.requests.loopback import names_loopback
from api.requests.same_origin import SAFE_METHODS, is_same_origin
from service.access.authentication import BAD_KEY, Authentication
from service.access.owned_corpora import OwnedCorpora
from service.foundation.errors import Forbidden, RateLimited, Unauthenticated
from service.foundation.tracing import NoTracer, Tracer
from service.jobs.submission import Submission
from service.ports.access import AuditLog, CorpusHolds, KeyStore, RateLimiter
from service.ports.files import ArtifactStore, CorpusStore
from service.ports.jobs import Clock, JobQueue, JobStore
from service.ports.models import ModelSource
from service.records.callers import LOCAL_CALLER, Caller, Scope
from service.records.job import Job
from service.records.quotas import NO_QUOTAS, Quotas

SESSION_COOKIE = "headroom_session"
BEARER = HTTPBearer(auto_error=False, description="a key of `headroom keys create`; none while the server is open")


@dataclass(frozen=True)
class Services:
    """The collaborators of the API process, and the limits an operator set."""

    store: JobStore
    queue: JobQueue
    artifacts: ArtifactStore
    corpora: CorpusStore
    holds: CorpusHolds
    keys: KeyStore
    audit: AuditLog
    models: ModelSource
    clock: Clock
    data_dir: Path
    max_body_bytes: int
    max_corpus_bytes: int
    uploads: CapacityLimiter  # threads that slow uploads may hold, so that they never take those of all other requests
    is_open: bool  # asks for no key: everything belongs to the owner "local"
    may_tell_plainly: bool = False  # webhooks by http, to networks that the operator allowed
    quotas: Quotas = NO_QUOTAS
    limiter: RateLimiter | None = None
    tracer: Tracer = field(default_factory=NoTracer)
    draining: threading.Event = field(default_factory=threading.Event)  # set once this process was told to stop

    @property
    def owned_corpora(self) -> OwnedCorpora:
        return OwnedCorpora(self.corpora, self.holds, self.store, self.quotas)

    @property
    def submission(self) -> Submission:
        return Submission(
            self.store, self.queue, self.owned_corpora, self.models, self.clock, self.tracer, self.may_tell_plainly
        )

    @property
    def authentication(self) -> Authentication:
        return Authentication(self.keys, self.clock)


async def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def live_of(request: Request) -> LiveJobs:
    live: LiveJobs = request.app.state.live
    return live


AppServices = Annotated[Services, Depends(services_of)]
Live = Annotated[LiveJobs, Depends(live_of)]


async def authenticate(request: Request) -> Caller:
    """The caller: by `Authorization: Bearer`, else by the cookie of POST /session.

    Unauthenticated, Forbidden, RateLimited.
    """
    known: Caller | None = getattr(request.state, "caller", None)
    if known is not None:  # another dependency of this request has asked
        return known
    services: Services = request.app.state.services  # no dependency: each costs every request
    if services.is_open and services.limiter is None:  # nobody is asked, so nobody is waited for
        return admit(request, services, None)
    bearer = await BEARER(request)
    return await run_in_threadpool(admit, request, services, bearer)


def admit(request: Request, services: Services, bearer: HTTPAuthorizationCredentials | None) -> Caller:
    """The caller, as `authenticate` finds it, in a thread of the caller's: it may ask database and broker."""
    caller = _caller(request, services, bearer)
    request.state.caller = caller
    if services.limiter is not None and getattr(request.state, "is_counted", True):
        request.state.allowance = allowance = services.limiter.take(caller.owner)
        if not allowance.is_allowed:
            raise RateLimited(f"more than {allowance.limit} requests in {allowance.window_seconds} s; wait a little")
    return caller


def _caller(request: Request, services: Services, bearer: HTTPAuthorizationCredentials | None) -> Caller:
    if services.is_open:
        refuse_other_sites(request, must_tell=False)
        refuse_other_names(request)
        return LOCAL_CALLER
    if bearer is not None:
        return services.authentication.by_key(bearer.credentials)
    if "authorization" in request.headers:
        raise Unauthenticated(BAD_KEY)
    token = request.cookies.get(SESSION_COOKIE)
    if token is None:
        raise Unauthenticated("this server asks for a key; send it as Authorization: Bearer hr_...")
    refuse_other_sites(request, must_tell=True)
    return services.authentication.by_session(token)


def refuse_other_sites(request: Request, must_tell: bool) -> None:
    """A page of another site must not change anything through the browser of somebody who may. Forbidden.

    `must_tell`: refuse also what does not say from where it comes. Browsers always say so.
    """
    if request.method in SAFE_METHODS:
        return
    same_origin = is_same_origin(request.headers)
    if same_origin is False or (must_tell and same_origin is None):
        raise Forbidden("this request comes from a page of another site; send it from here, or with a key")


def refuse_other_names(request: Request) -> None:
    """A page whose name was made to mean this machine (DNS rebinding) must not read anything. Forbidden."""
    host = request.headers.get("host")
    if host and not names_loopback(host):  # browsers always name one
        raise Forbidden("while it asks for no key this server answers to localhost only; use that name, or make keys")


class Needs(SecurityBase):
    """Gives the caller, if its key has this scope; to OpenAPI it is the scheme of BEARER."""

    model = BEARER.model
    scheme_name = BEARER.scheme_name

    def __init__(self, scope: Scope | None) -> None:
        self._scope = scope

    async def __call__(self, request: Request) -> Caller:
        caller = await authenticate(request)
        if self._scope is not None and not caller.may(self._scope):
            raise Forbidden(f"the key lacks the scope {self._scope.value}; ask the operator for one that has it")
        return caller


def needs(scope: Scope | None) -> Any:
    """A dependency; None: any key will do."""
    return Depends(Needs(scope))


AnyCaller = Annotated[Caller, needs(None)]


JobsReader = Annotated[Caller, needs(Scope.JOBS_READ)]
JobsWriter = Annotated[Caller, needs(Scope.JOBS_WRITE)]
ArtifactsReader = Annotated[Caller, needs(Scope.ARTIFACTS_READ)]
Admin = Annotated[Caller, needs(Scope.ADMIN)]


def find_visible_job(job_id: str, caller: AnyCaller, services: AppServices) -> Job:
    """The job of the path. JobNotFound also if it is another owner's; the scope is for the route to ask."""
    return services.store.get(job_id, caller.sees)


VisibleJob = Annotated[Job, Depends(find_visible_job)]
