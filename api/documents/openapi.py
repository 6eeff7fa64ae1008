"""The OpenAPI document: FastAPI's, with our problems in place of its own error schema, and with examples."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.documents.openapi_examples import DETAILS, Example, answer_examples, request_examples
from api.documents.openapi_links import add_links
from api.errors import CATALOGUE
from api.schemas import Problem

PROBLEM = {"$ref": "#/components/responses/Problem"}


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The app's OpenAPI document, built at the first call and kept by the app."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        described = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= described.pop("$defs") | {"Problem": described}
        components["responses"] = {"Problem": _problem()}
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = PROBLEM
        _add_examples(document)
        add_links(document)
        app.openapi_schema = document
    return app.openapi_schema


def _problem() -> dict[str, Any]:
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": _problems()}
    return {
        "description": "A problem; its `code` says which",
        "content": {"application/problem+json": content},
    }


def _problems() -> dict[str, Example]:
    """Every error of the catalogue."""
    found = {}
    for code, kind in CATALOGUE.items():
        fields = [{"field": "ratio", "message": "Input should be less than 1"}] if code == "invalid_request" else []
        value = {
            "type": f"urn:headroom:error:{code}",
            "title": kind.title,
            "status": kind.status,
            "detail": DETAILS.get(code, kind.title),
            "instance": "/v1/jobs",
            "code": code,
            "request_id": "a1a77933a26c94abd46fb9b5fd2f010f",
            "errors": fields,
        }
        found[code] = {"summary": f"{kind.status}: {kind.title}", "value": value}
    return found


def _add_examples(document: dict[str, Any]) -> None:
    paths = document["paths"]
    for (method, path), by_media in request_examples().items():
        _place(paths[path][method]["requestBody"].setdefault("content", {}), by_media)
    for (method, path, status), by_media in answer_examples().items():
        _place(paths[path][method]["responses"][status].setdefault("content", {}), by_media)


def _place(content: dict[str, Any], by_media: dict[str, dict[str, Example]]) -> None:
    for media, examples in by_media.items():
        content.setdefault(media, {"schema": {"type": "string"}})["examples"] = examples
