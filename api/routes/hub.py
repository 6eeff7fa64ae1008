"""/hub: what jobs have published, to every Hugging Face client (`HF_ENDPOINT=http://host/hub`). See docs/hub.md.

Another protocol than /v1, with errors of its own (hub_errors.py), hence not in the OpenAPI document. No answer carries
`X-Xet-Hash`: a client would turn to a storage that is not here.
"""

from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from api.answers import hub_views
from api.answers.downloads import send_file
from api.answers.hub_errors import HubRoute
from api.dependencies import AnyCaller, AppServices, ArtifactsReader
from api.requests.audit import audited
from api.requests.rate_limits import UNCOUNTED
from service.publishing.hub import MAIN, Commit, Repository, open_repository

PAGE_ENTRIES = 1000

router = APIRouter(prefix="/hub", route_class=HubRoute, include_in_schema=False)


def find_repository(namespace: str, name: str, services: AppServices, caller: ArtifactsReader) -> Repository:
    return open_repository(services.store, services.artifacts, f"{namespace}/{name}", caller.sees)


FoundRepository = Annotated[Repository, Depends(find_repository)]


def find_commit(repository: FoundRepository, request: Request) -> Commit:
    commit = repository.commit(request.path_params.get("revision", MAIN))
    request.state.commit = commit.id  # for an error after this
    return commit


FoundCommit = Annotated[Commit, Depends(find_commit)]


# A client that is refused here gives up the whole download.
@router.get("/api/models/{namespace}/{name}", dependencies=[UNCOUNTED])
@router.get("/api/models/{namespace}/{name}/revision/{revision:path}", dependencies=[UNCOUNTED])
def model_info(repository: FoundRepository, commit: FoundCommit) -> dict[str, Any]:
    return hub_views.model_info(repository, commit)


@router.get("/api/models/{namespace}/{name}/refs")
def refs(repository: FoundRepository) -> dict[str, Any]:
    return hub_views.references(repository)


@router.get("/api/models/{namespace}/{name}/tree/{revision}")
@router.get("/api/models/{namespace}/{name}/tree/{revision}/{folder:path}")
def tree(
    commit: FoundCommit,
    request: Request,
    folder: str = "",
    recursive: bool = False,
    limit: Annotated[int, Query(ge=1, le=PAGE_ENTRIES)] = PAGE_ENTRIES,
    cursor: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """A page of the list; `Link` leads to the next. 404 for a folder that is not there: clients ask for some."""
    entries = hub_views.tree(commit, folder.strip("/"), recursive)
    end = cursor + limit
    headers = {"X-Repo-Commit": commit.id}
    if end < len(entries):
        headers["Link"] = f'<{request.url.include_query_params(cursor=end)}>; rel="next"'
    return JSONResponse(entries[cursor:end], headers=headers)


@router.post("/api/models/{namespace}/{name}/paths-info/{revision}")
async def paths_info(commit: FoundCommit, request: Request) -> list[dict[str, Any]]:
    """`paths` is a form field that may be given several times."""
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    return hub_views.paths(commit, form.get("paths", []))


@router.get("/api/whoami-v2")
def whoami(caller: AnyCaller) -> dict[str, Any]:
    return {"type": "user", "id": caller.owner, "name": caller.owner, "fullname": caller.owner, "orgs": []}


@router.api_route(
    "/{namespace}/{name}/resolve/{revision}/{path:path}",
    methods=["GET", "HEAD"],
    dependencies=[audited("file.download")],
)
def resolve(commit: FoundCommit, path: str, request: Request, services: AppServices) -> Response:
    """One file, or a range of it. The ETag is the sha256 of its content: it names the file in the client's cache."""
    file = commit.stored(path)
    headers = {
        "X-Repo-Commit": commit.id,
        "X-Linked-Size": str(file.size),
        "X-Linked-Etag": f'"{file.sha256}"',
    }
    return send_file(request, services.artifacts, commit.job_id, file, headers)
