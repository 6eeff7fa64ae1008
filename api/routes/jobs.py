"""/v1/jobs: post, read, list and cancel jobs; their reports. Events are in events.py, files in files.py."""

import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any, Self

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.answers.conditions import is_unchanged, prefers
from api.answers.job_answers import JobAnswers
from api.answers.job_views import dry_run_view, job_view
from api.dependencies import (
    AppServices,
    JobsReader,
    JobsWriter,
    Needs,
    VisibleJob,
    needs,
)
from api.requests.audit import audited
from api.requests.idempotency import IdempotencyKey, keyed, once
from api.requests.strict_requests import StrictRoute
from headroom.contract.answers.dry_run import DryRunView
from headroom.contract.answers.job import JobList, JobView, Status
from headroom.contract.job_recipe import LABEL_KEY
from headroom.contract.recipe import Recipe
from headroom.contract.report.report import Report, open_report
from service.foundation.errors import JobNotFound
from service.ports.jobs import JobFilter
from service.records.callers import Caller, Scope
from service.records.job import Job
from service.reports.report_page import figures_of, write_page

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)

# The page is whole in itself: nothing else may be loaded or sent.
PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
REVALIDATED = {"Cache-Control": "no-cache"}
LABEL_PARAMETER = re.compile(r"labels\[(.*)\]")


class SubmitOptions(BaseModel):
    """A misspelt option must not start a job."""

    model_config = ConfigDict(extra="forbid")

    validate_only: Annotated[bool, Field(description="try the request out; nothing is stored or queued")] = False


class FilterOptions(BaseModel):
    """A misspelt filter must not list everything. `labels[key]=value` may be given several times."""

    model_config = ConfigDict(extra="allow")

    status: Status | None = None
    kind: Annotated[str | None, Field(max_length=64)] = None
    model: Annotated[str | None, Field(max_length=193)] = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20

    @model_validator(mode="after")
    def _only_labels_beside(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            match = LABEL_PARAMETER.fullmatch(name)
            if match is None or not LABEL_KEY.fullmatch(match[1]) or not isinstance(value, str):
                raise ValueError(f"there is no filter {name[:80]!a}; use status, kind, model or labels[key]")
        return self

    def filter(self, caller: Caller) -> JobFilter:
        labels = tuple((name[len("labels[") : -1], str(value)) for name, value in (self.model_extra or {}).items())
        return JobFilter(self.status, self.kind, self.model, labels, owner=caller.sees)


class ListOptions(FilterOptions):
    """A page of what matches."""

    after: Annotated[str | None, Field(max_length=64, description="the last id of the page before")] = None


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    responses={200: {"model": DryRunView, "description": "Only validated"}, 202: {"description": "Queued"}},
    dependencies=[audited("job.post")],
)
def submit(
    recipe: Recipe,
    options: Annotated[SubmitOptions, Query()],
    services: AppServices,
    caller: JobsWriter,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue a job. 202 as soon as it is stored, also while the broker is away."""
    if options.validate_only:
        return _json(dry_run_view(services.submission.try_out(recipe, caller)))
    request = keyed(caller, "POST /v1/jobs", idempotency_key, recipe.model_dump_json()) if idempotency_key else None
    is_new_secret = recipe.webhook is not None and recipe.webhook.secret is None
    respond = partial(_accepted, shows_secret=is_new_secret)
    return once(services, request, partial(services.submission.accept, recipe, caller), respond)


@router.get("", response_model=JobList)
def list_jobs(options: Annotated[ListOptions, Query()], services: AppServices, caller: JobsReader) -> JobList:
    """Newest first."""
    page = services.store.page(options.filter(caller), options.limit, options.after)
    return JobList(data=[job_view(job) for job in page.jobs], has_more=page.has_more)


async def read(job_id: str, request: Request, caller: JobsReader) -> Response:
    """One job. Send its ETag back in If-None-Match: 304 while nothing has changed."""
    answers: JobAnswers = request.app.state.answers
    version = await answers.version(job_id, caller.sees)
    if version is not None:
        etag = _etag(job_id, version)
        if is_unchanged(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers={"ETag": etag} | REVALIDATED)
        if found := await answers.body(job_id, version):
            version, body = found
            headers = {"ETag": _etag(job_id, version)} | REVALIDATED
            return Response(body, headers=headers, media_type="application/json")
    raise JobNotFound(f"there is no job {job_id!r}; list the jobs to see their ids")


class ReadRoute(StrictRoute):
    """Finds what `read` takes by itself, by the same dependency: to have it found costs a 304 a sixth of its time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        caller_of = Needs(Scope.JOBS_READ)

        async def handle(request: Request) -> Response:
            return await read(request.path_params["job_id"], request, await caller_of(request))

        return handle


def install_read(app: FastAPI) -> None:
    """Before all routers: to look through an included one costs twice, and this is what is asked most by far."""
    app.router.add_api_route(
        f"{router.prefix}/{{job_id}}",
        read,
        methods=["GET"],
        tags=[*router.tags],
        response_model=JobView,
        responses={304: {"description": "Not changed"}},
        route_class_override=ReadRoute,
    )


@router.delete("/{job_id}", status_code=204, dependencies=[audited("job.delete"), needs(Scope.JOBS_WRITE)])
def delete(job: VisibleJob, services: AppServices) -> None:
    """Remove a job that has ended, with its report and files; its commit leaves the hub."""
    services.submission.delete(job, services.artifacts)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    response_model=JobView,
    responses={200: {"model": JobView, "description": "It was canceled, or told to stop, before"}},
    dependencies=[audited("job.cancel"), needs(Scope.JOBS_WRITE)],
)
def cancel(job: VisibleJob, services: AppServices) -> Response:
    """Ask a job to stop; a running one is `canceling` until its worker has let go."""
    cancellation = services.submission.cancel(job.id)
    return _json(job_view(cancellation.job), status=200 if cancellation.was_asked_before else 202)


@router.get(
    "/{job_id}/report",
    response_model=Report,
    responses={200: {"content": {"text/html": {}}, "description": "As JSON, or as a page with plots"}},
    dependencies=[needs(Scope.JOBS_READ)],
)
def report(job: VisibleJob, request: Request, services: AppServices) -> Response:
    """Everything that was measured; a rejected job has a report too. `Accept: text/html` gives it as a page."""
    found = services.store.report(job.id)
    headers = {"Vary": "Accept"}
    if prefers(request.headers.get("accept", ""), "text/html"):
        return HTMLResponse(write_page(open_report(found)), headers=headers | {"Content-Security-Policy": PAGE_POLICY})
    return JSONResponse(found, headers=headers)


@router.get("/{job_id}/figures", response_model=dict[str, dict[str, Any]], dependencies=[needs(Scope.JOBS_READ)])
def figures(job: VisibleJob, services: AppServices) -> Response:
    """The plots of the report by name, as plotly figures: `{"data", "layout"}` each."""
    return JSONResponse(figures_of(open_report(services.store.report(job.id))))


def _etag(job_id: str, version: int) -> str:
    return f'"{job_id}.{version}"'


def _accepted(job: Job, shows_secret: bool) -> Response:
    """`shows_secret`: the one that was made for its webhook, which no other answer tells."""
    view = job_view(job)
    if shows_secret and job.recipe.webhook is not None:
        told = job.recipe.webhook.model_dump(mode="json") | {"secret": job.recipe.webhook.secret}
        view = view.model_copy(update={"webhook": told})
    return _json(view, status=202, headers={"Location": view.links.self})


def _json(view: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(view.model_dump_json(), status, headers, media_type="application/json")
