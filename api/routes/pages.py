"""The dashboard: pages of HTML without any data in them. Their scripts read and write over /v1, as every client does,
so that a page can show nothing which the API would not.

Whatever users can name reaches a page as text of a node that a script makes, or escaped by jinja2, never as HTML.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import plotly
from fastapi import APIRouter, FastAPI, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from api.documents.reference import operations_of, problems_of, schemas_of
from headroom.contract.compress import Method

router = APIRouter(include_in_schema=False)

ASSETS = Path(__file__).parents[1] / "dashboard" / "assets"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"

# Scripts and styles are files of ours, and nothing goes elsewhere. plotly sets the style attribute of what it draws.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
FOR_EVER = "public, max-age=31536000, immutable"

templates = Environment(loader=PackageLoader("api", "dashboard/templates"), autoescape=True, undefined=StrictUndefined)


class Assets(StaticFiles):
    """Our files, and plotly's script from where its package has it."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return (str(PLOTLY), PLOTLY.stat()) if path == PLOTLY.name else super().lookup_path(path)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = FOR_EVER
        return response


def install_pages(app: FastAPI) -> None:
    """With their files below a path that changes with the content, so that browsers may keep them for ever."""
    app.include_router(router)
    app.state.assets = f"/assets/{_digest()}"
    app.mount(app.state.assets, GZipMiddleware(Assets(directory=ASSETS), minimum_size=1000, compresslevel=6))


def _digest() -> str:
    found = hashlib.sha256(plotly.__version__.encode())
    for path in sorted(ASSETS.iterdir()):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


@router.get("/")
def jobs_page(request: Request) -> Response:
    return _page(request, "jobs")


@router.get("/new")
def new_page(request: Request) -> Response:
    return _page(request, "new", methods=[method.value for method in Method])


@router.get("/models")
def models_page(request: Request) -> Response:
    return _page(request, "models")


@router.get("/docs")
def docs_page(request: Request) -> Response:
    document = request.app.openapi()
    rows = {"by_tag": operations_of(document), "schemas": schemas_of(document), "problems": problems_of(document)}
    return _page(request, "docs", openapi=document["openapi"], version=document["info"]["version"], **rows)


@router.get("/login")
def login_page(request: Request) -> Response:
    return _page(request, "login")


@router.get("/jobs/{job_id}")
def job_page(request: Request, job_id: str) -> Response:
    return _page(request, "job", job_id=job_id)


def _page(request: Request, name: str, **values: Any) -> Response:
    html = templates.get_template(f"{name}.html").render(page=name, assets=request.app.state.assets, **values)
    return HTMLResponse(html, headers=HEADERS)
