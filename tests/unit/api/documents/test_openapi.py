"""The OpenAPI document: valid, as checked in, and with an example of everything that is true to its schema."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from api.errors import CATALOGUE
from headroom.contract.recipe import RECIPES
from tests.openapi_document import PATH, openapi_text

DOCUMENT: dict[str, Any] = json.loads(openapi_text())
BINARY = "application/octet-stream"


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def media_types() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where it is, the media type, and its schema and examples: of bodies and of answers."""
    for name, operation in operations():
        bodies = [("body", operation["requestBody"])] if "requestBody" in operation else []
        answers = [(status, answer) for status, answer in operation["responses"].items() if status != "default"]
        for part, holder in [*bodies, *answers]:
            for media, content in holder.get("content", {}).items():
                yield f"{name} {part}", media, content
    for media, content in DOCUMENT["components"]["responses"]["Problem"]["content"].items():
        yield "Problem", media, content


def test_the_checked_in_document_is_that_of_the_server() -> None:
    assert PATH.read_text(encoding="utf-8") == openapi_text(), "renew it: python -m tests.openapi_document"


def test_the_document_is_valid_openapi() -> None:
    validate(DOCUMENT)


@pytest.mark.parametrize(("where", "media", "content"), list(media_types()), ids=lambda value: str(value)[:60])
def test_every_body_and_answer_has_an_example_that_is_true_to_its_schema(
    where: str, media: str, content: dict[str, Any]
) -> None:
    if media in (BINARY, "text/html"):  # a file; the page of a report, 5 MB
        return
    assert content.get("examples"), f"{where} has no example of {media}; add one to api/documents/openapi_examples.py"
    schema = content["schema"] | {"components": DOCUMENT["components"]}
    for name, example in content["examples"].items():
        errors = [error.message for error in Draft202012Validator(schema).iter_errors(example["value"])]
        assert errors == [], (where, name)


def test_every_error_has_an_example() -> None:
    (content,) = DOCUMENT["components"]["responses"]["Problem"]["content"].values()
    shown = {name: example["value"]["status"] for name, example in content["examples"].items()}
    assert shown == {code: kind.status for code, kind in CATALOGUE.items()}
    assert all(
        operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"} for _, operation in operations()
    )


def test_every_operation_says_what_it_does() -> None:
    assert [name for name, operation in operations() if not operation.get("description")] == []


def test_the_recipes_shown_are_recipes_of_every_kind() -> None:
    examples = DOCUMENT["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    kinds = {RECIPES.validate_json(json.dumps(example["value"])).kind for example in examples.values()}
    assert kinds == {"compress", "analyze", "steer", "compare", "dynamics"}
