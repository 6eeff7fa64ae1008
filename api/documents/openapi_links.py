"""Links of the OpenAPI document: from what makes a job or a corpus to every route of what it made."""

from typing import Any

# What makes something, and the parameter by which other routes know it; the answer's `id` is its value.
MAKERS = {"/v1/jobs": "job_id", "/v1/corpora": "corpus_id"}
ID_OF_ANSWER = "$response.body#/id"


def add_links(document: dict[str, Any]) -> None:
    """Add links to each successful answer of a maker. A route that needs more than the id is left out."""
    for maker, parameter in MAKERS.items():
        links = _links(document, f"{maker}/{{{parameter}}}", parameter)
        for status, answer in document["paths"][maker]["post"]["responses"].items():
            if status.startswith("2"):
                answer["links"] = links


def _links(document: dict[str, Any], prefix: str, parameter: str) -> dict[str, Any]:
    found = {}
    for path, operations in sorted(document["paths"].items()):
        if not path.startswith(prefix) or path.count("{") > 1:
            continue
        for method, operation in sorted(operations.items()):
            name = f"{method}{path.removeprefix(prefix).replace('/', '_')}"
            found[name] = {"operationId": operation["operationId"], "parameters": {parameter: ID_OF_ANSWER}}
    return found
