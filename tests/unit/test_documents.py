"""What the documents say is what the code is."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from api.errors import CATALOGUE
from api.main import build_app
from headroom.contract.analyze import AnalyzeRecipe
from headroom.contract.compare import CompareRecipe
from headroom.contract.compress import CompressRecipe
from headroom.contract.dynamics import DynamicsRecipe
from headroom.contract.job_recipe import JobRecipe
from headroom.contract.steer import SteerRecipe
from service.foundation.errors import ServiceError
from service.foundation.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/**/*.md")})
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
API = (ROOT / "docs/api.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
FORMAT = (ROOT / "docs/checkpoint-format.md").read_text()


def rows(document: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its two head lines."""
    lines = document.split(f"{heading}\n", 1)[1].splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("|"))
    table = list(takewhile(lambda line: line.startswith("|"), lines[first:]))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def plain(cell: str) -> str:
    return cell.strip("`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    assert [target for target in targets if target and not (document.parent / target).exists()] == []


def test_every_path_in_the_architecture_exists() -> None:
    in_text = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|md|yml|toml))`", ARCHITECTURE)
    paths = {path for path in in_text if "__init__" not in path}
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_every_room_has_its_line_in_the_architecture() -> None:
    rooms = {
        f"`{path.parent.relative_to(ROOT)}/`"
        for package in ("api", "service", "workers", "headroom")
        for path in (ROOT / package).rglob("*.py")
        if path.parent.name != "versions"  # migrations, one a change
    }
    assert sorted(room for room in rooms if room not in ARCHITECTURE) == []


def test_the_architecture_can_be_read_at_one_sitting() -> None:
    assert len(ARCHITECTURE.splitlines()) <= 150


def test_every_error_is_documented_with_its_status() -> None:
    table = {plain(code): int(status) for code, status, _ in rows(API, "## Errors")}
    assert table == {code: kind.status for code, kind in CATALOGUE.items()}
    assert {error.code for error in every_error()} <= table.keys()


def every_error(root: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield root
    for child in root.__subclasses__():
        yield from every_error(child)


def test_every_route_has_a_heading_and_every_heading_a_route(tmp_path: Path) -> None:
    paths = build_app(Settings(data_dir=tmp_path)).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert set(re.findall(r"^### `(.*)`$", API, re.MULTILINE)) == routes


def test_every_field_of_a_job_is_documented_with_its_default() -> None:
    table = {plain(name): default for name, default, _ in rows(API, "### `POST /v1/jobs`")}
    assert table == dict(fields_of(CompressRecipe))


@pytest.mark.parametrize("recipe", [AnalyzeRecipe, SteerRecipe, CompareRecipe, DynamicsRecipe])
def test_the_fields_that_only_one_kind_has_are_documented_with_their_defaults(recipe: type[JobRecipe]) -> None:
    (kind,) = get_args(recipe.model_fields["kind"].annotation)
    assert f"#### `{kind}`" in API
    shared = {**dict(fields_of(CompressRecipe)), **dict(fields_of(JobRecipe))}
    own = {name: default for name, default in fields_of(recipe) if name == "kind" or name not in shared}
    table = {plain(name): default for name, default, _ in rows(API, f"#### `{kind}`")}
    assert table == own


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        default: Any = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from fields_of(type(default), f"{name}.")
        elif field.is_required():
            yield prefix + name, "required"
        else:
            yield prefix + name, f"`{json.dumps(default)}`"


def test_every_setting_is_documented_with_its_default() -> None:
    table = {plain(name): plain(default) for name, default, _ in rows(SETTINGS, "# Settings")}
    assert table == {f"HEADROOM_{name.upper()}": shown(field.default) for name, field in Settings.model_fields.items()}


def shown(default: Any) -> str:
    if default in ("", None):
        return "empty"
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_every_variable_of_the_command_line_is_documented() -> None:
    listed = {plain(name) for name, _ in rows(SETTINGS, "## Of the command line only")}
    sources = "".join(path.read_text() for path in (ROOT / "headroom").rglob("*.py"))
    read = set(re.findall(r"HEADROOM_[A-Z_]+", sources))
    assert listed <= read <= listed | {f"HEADROOM_{name.upper()}" for name in Settings.model_fields}


def test_every_field_of_the_checkpoint_config_is_documented() -> None:
    tree = ast.parse((ROOT / "headroom/loading/transformers_plugin.py").read_text())
    config = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "HeadroomConfig")
    init = next(node for node in config.body if isinstance(node, ast.FunctionDef))
    fields = {argument.arg for argument in init.args.kwonlyargs}
    assert {plain(name) for name, *_ in rows(FORMAT, "## `quantization_config` in config.json")} == fields


def test_every_field_and_tensor_of_planes_is_documented() -> None:
    import torch

    from headroom.loading.planes_head import PlanesEmbedding, PlanesHead
    from headroom.loading.transformers_plugin import PLANES_FIELDS

    head = PlanesHead(40, 5, 40, 32, bits=4, rescored=1, bias=True, has_mean=True)
    table = PlanesEmbedding(40, 5, 32, unbasis=True, scale=1.0, padding_idx=None)
    letters = {5: "V", 40: "d", 32: "c", 4: "ceil((n - c) / 2)", 2: "ceil(n / 32)"}
    dtypes = {torch.uint8: "uint8", torch.int32: "int32: bits of float32", torch.int16: "int16: bits of bfloat16"}
    parts = {f"HOLDER.{name}": tensor for name, tensor in table.state_dict().items()}
    parts |= {f"HEAD.{name}": tensor for name, tensor in head.state_dict().items() if name in ("bias", "mean_hidden")}
    found = {name: ([letters[size] for size in tensor.shape], tensor.dtype) for name, tensor in parts.items()}
    found |= {f"HOLDER.{name}": (["n", "d"], torch.float32) for name in ("basis", "unbasis")}  # n columns are stored
    shapes = {
        name: (f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})", dtypes.get(dtype, "the model's"))
        for name, (sizes, dtype) in found.items()
    }
    tensors = rows(FORMAT, "## Version 2: a head in planes")
    assert {plain(name): (shape, dtype) for name, shape, dtype, *_ in tensors} == shapes
    assert {plain(name) for name, *_ in rows(FORMAT, "### Fields of version 2")} == set(PLANES_FIELDS)


def test_every_tensor_of_the_checkpoint_is_documented_with_its_shape() -> None:
    import torch

    from headroom.loading.head import SlicedEmbedding, SlicedHead
    from headroom.loading.quantized_head import PackedHead, QuantizedHead

    letters = {5: "V", 4: "d", 3: "k", 1: "d - k", 2: "n"}
    of_packed = {5: "V", 70: "k", 35: "ceil(k / 2)", 4: "d", 3: "ceil(k / 32)"}
    dtypes = {torch.int8: "int8", torch.uint8: "uint8", torch.int64: "int64", torch.int32: "int32: bits of float32"}
    dtypes |= {torch.int16: "int16: bits of bfloat16"}
    found: dict[str, tuple[str, str]] = {}
    for permutation in (True, False):
        head = SlicedHead(4, 5, 3, permutation=permutation, bias=True, held=2, mean_repaired=True)
        embedding = SlicedEmbedding(5, 4, 3, permutation=permutation, scale=1.0, padding_idx=None)
        rounded, packed = QuantizedHead(4, 5, 3, bias=True), PackedHead(4, 5, 70, bias=True)
        for module, holder in ((head, "HEAD"), (rounded, "HEAD"), (packed, "HEAD"), (embedding, "EMBED")):
            for name, tensor in module.state_dict().items():
                sizes = [(of_packed if module is packed else letters)[size] for size in tensor.shape]
                shape = f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"
                found[f"{holder}.{name}"] = shape, dtypes.get(tensor.dtype, "the model's")
    table = {plain(name): (shape, dtype) for name, shape, dtype, *_ in rows(FORMAT, "## Tensors")}
    assert table == found


def test_the_decisions_are_numbered_without_gaps_and_say_what_holds_them() -> None:
    decisions = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        assert "](../../" in path.read_text().partition("- **Confirmation:**")[2], path.name


def test_the_changelog_names_the_present_version() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.*)"$', project, re.MULTILINE)
    assert version is not None
    assert version[1] in inspect.cleandoc((ROOT / "CHANGELOG.md").read_text())
