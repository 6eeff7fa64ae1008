"""The engine computes; few of its modules touch files, and none logs, reads a setting or the environment of a job."""

import ast
from collections.abc import Iterator
from pathlib import Path

ENGINE = Path(__file__).parents[2] / "service/compression"
# These open files or models; everything else is functions of tensors and plain values.
AT_THE_EDGE = {
    "checkpoint",
    "corpus",
    "decoding",
    "exports",
    "hashed_writing",
    "hidden_cache",
    "kinds",
    "model_loading",
    "offloading",
    "onnx_export",
    "phase_timer",
    "pipeline",
    "revisions",
    "source",
    "spread",
    "storing",
    "validation",
}
OUTSIDE = {"io", "os", "pathlib", "random", "shutil", "socket", "subprocess", "tempfile", "time"}
NOWHERE = {"logging", "service.settings", "service.adapters", "api", "workers"}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def found_in(path: Path, names: set[str]) -> set[str]:
    return {name for name in imports_of(path) for wanted in names if name == wanted or name.startswith(f"{wanted}.")}


def test_only_the_edge_of_the_engine_touches_files_and_clocks() -> None:
    modules = {path.stem: found_in(path, OUTSIDE) for path in ENGINE.glob("*.py")}
    assert set(modules) >= AT_THE_EDGE
    assert {name: found for name, found in modules.items() if found and name not in AT_THE_EDGE} == {}


def test_nothing_in_the_engine_logs_or_reads_settings() -> None:
    assert {path.stem: found for path in ENGINE.glob("*.py") if (found := found_in(path, NOWHERE))} == {}


def test_no_global_random_state_is_used_in_the_engine() -> None:
    """Every draw takes a generator made from a seed."""
    drawing = [line for path in ENGINE.glob("*.py") for line in path.read_text().splitlines() if "torch.rand" in line]
    assert drawing
    assert [line.strip() for line in drawing if "generator=" not in line] == []
