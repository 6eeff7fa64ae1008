"""The OpenAPI document as plain rows for the page /docs. Describes nothing that is not in the document."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A parameter of an operation, or a property of a schema."""

    name: str
    type: str
    required: bool
    text: str


@dataclass(frozen=True)
class Body:
    """A request or an answer: `schemas` are names of the document's."""

    status: str
    text: str
    media: list[str]
    schemas: list[str]
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class Operation:
    """A method of a path."""

    method: str
    path: str
    text: str
    parameters: list[Row]
    request: Body | None
    answers: list[Body]

    @property
    def anchor(self) -> str:
        return f"{self.method}-{self.path.strip('/').replace('/', '-').replace('{', '').replace('}', '')}".lower()


@dataclass(frozen=True)
class SchemaRows:
    """A schema and its properties."""

    name: str
    text: str
    rows: list[Row] = field(default_factory=list)


def operations_of(document: dict[str, Any]) -> dict[str, list[Operation]]:
    """The operations by tag, in the order of the document."""
    found: dict[str, list[Operation]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            request = operation.get("requestBody")
            described = Operation(
                method=method.upper(),
                path=path,
                text=operation.get("description", operation.get("summary", "")),
                parameters=[_parameter(item) for item in operation.get("parameters", [])],
                request=_body("", request) if request else None,
                answers=[_body(status, one) for status, one in operation["responses"].items() if "$ref" not in one],
            )
            found.setdefault(operation.get("tags", ["other"])[0], []).append(described)
    return found


def problems_of(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Summary and example of every error."""
    return _body("", document["components"]["responses"]["Problem"]).examples


def schemas_of(document: dict[str, Any]) -> list[SchemaRows]:
    found = document["components"]["schemas"]
    return [SchemaRows(name, schema.get("description", ""), _rows(schema)) for name, schema in sorted(found.items())]


def _parameter(item: dict[str, Any]) -> Row:
    schema = item.get("schema", {})
    text = item.get("description") or schema.get("description", "")
    return Row(item["name"], _type(schema), item.get("required", False), _with_default(text, schema))


def _rows(schema: Schema) -> list[Row]:
    required = set(schema.get("required", []))
    return [
        Row(name, _type(value), name in required, _with_default(value.get("description", ""), value))
        for name, value in schema.get("properties", {}).items()
    ]


def _body(status: str, answer: dict[str, Any]) -> Body:
    content = answer.get("content", {})
    schemas = {name for media in content.values() for name in _names(media.get("schema", {}))}
    examples = [
        (example.get("summary", name), _shown(example["value"]))
        for media in content.values()
        for name, example in media.get("examples", {}).items()
    ]
    return Body(status, answer.get("description", ""), list(content), sorted(schemas), examples)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _names(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rsplit("/", 1)[-1]
        for value in schema.values():
            yield from _names(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _names(value)


def _type(schema: Schema) -> str:
    """A schema in words: "integer 1 to 100", "string or null", the name of a schema."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return ", ".join(json.dumps(value) for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    types = schema.get("type", "any")
    return (" or ".join(types) if isinstance(types, list) else str(types)) + _range(schema)


def _range(schema: Schema) -> str:
    low = _bound(schema, "minimum", "exclusiveMinimum", "over")
    high = _bound(schema, "maximum", "exclusiveMaximum", "under")
    if low and high:
        return f", {low} to {high}"
    return f", {low or high}" if low or high else ""


def _bound(schema: Schema, inclusive: str, exclusive: str, word: str) -> str:
    if inclusive in schema:
        return f"{schema[inclusive]:,}"
    return f"{word} {schema[exclusive]:,}" if exclusive in schema else ""


def _with_default(text: str, schema: Schema) -> str:
    if schema.get("default") is None:
        return text
    return f"{text} Default: {json.dumps(schema['default'])}.".strip()
