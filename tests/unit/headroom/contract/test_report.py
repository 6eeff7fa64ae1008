"""A report is the same after it was read and written; what is older, newer or wrong is met as the contract says."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel, ValidationError

from headroom.contract.report.drift_parts import GroupGap
from headroom.contract.report.report import (
    VERSION,
    AnalyzeReport,
    CompareReport,
    CompressReport,
    DynamicsReport,
    SteerReport,
    as_document,
    open_report,
    unknown_fields,
)
from headroom.errors import HeadroomError
from tests.reports import make_comparison, make_report, make_steering

ROOT = Path(__file__).parents[4]
SAVED = sorted((ROOT / "tests/saved_reports").glob("*.json"))  # from before reports had a version
KINDS = (CompressReport, AnalyzeReport, SteerReport, CompareReport, DynamicsReport)
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("report", "analysis", "steering", "compare")]


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_report_of_an_earlier_version_opens_and_is_written_back_as_it_was(path: Path) -> None:
    document = json.loads(path.read_text())
    report = open_report(document)
    assert type(report) in KINDS
    assert report.version == 1
    assert list(unknown_fields(report)) == []
    assert as_document(report) == document


def test_saved_reports_are_of_every_kind() -> None:
    assert {type(open_report(json.loads(path.read_text()))) for path in SAVED} == set(KINDS)


def test_a_field_of_a_later_version_is_kept_and_named() -> None:
    document = make_report({0.5: 0.001}, 0.5)
    document["curve"][0]["moonlight"] = 0.5
    report = open_report(document | {"version": VERSION + 1, "omens": ["a", "b"]})
    assert as_document(report)["omens"] == ["a", "b"]
    assert list(unknown_fields(report)) == [".omens", ".curve[0].moonlight", ".comparisons.slope[0].moonlight"]


@pytest.mark.parametrize(
    ("document", "missing"),
    [
        (make_report({0.5: 0.001}, 0.5), ("fitted", "comparisons", "stored", "warnings")),
        (make_comparison(), ("warnings", "groups", "budget")),
        (make_steering(), ("fitted", "stored")),
    ],
)
def test_a_report_from_before_some_parts_were_written_opens(document: dict[str, Any], missing: tuple[str, ...]) -> None:
    older = {name: value for name, value in document.items() if name not in missing}
    assert as_document(open_report(older)) == older


@pytest.mark.parametrize(
    ("place", "value"), [("method", None), ("head_dtype", 8), ("seed", "0"), ("curve", [{}]), ("bytes", None)]
)
def test_what_is_no_such_field_cannot_be_made(place: str, value: Any) -> None:
    parts = dict(open_report(make_report({0.5: 0.001}, 0.5)))
    assert CompressReport(**parts).seed == 0
    with pytest.raises(ValidationError, match=place):
        CompressReport(**parts | {place: value})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_measured_number_that_json_cannot_write_is_null(number: float) -> None:
    gap = GroupGap(most="a", least="b", gap=number, low=0.1, high=number)
    assert json.loads(gap.model_dump_json()) == {"most": "a", "least": "b", "gap": None, "low": 0.1, "high": None}


def test_a_number_that_must_be_known_cannot_be_such_a_one() -> None:
    parts = dict(open_report(make_report({0.5: 0.001}, 0.5)))
    with pytest.raises(ValidationError, match="largest_passing_ratio"):
        CompressReport(**parts | {"largest_passing_ratio": math.nan})


def test_what_is_no_report_is_told_in_a_sentence() -> None:
    with pytest.raises(HeadroomError, match=r"cannot be read .*compress.*newer headroom"):
        open_report({"kind": "compress"})


def test_a_report_is_not_changed_by_its_readers() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        open_report(make_report({0.5: 0.001}, 0.5)).seed = 1  # type: ignore[misc]


def fields_of(record: type[BaseModel]) -> Iterator[str]:
    """Names of its fields, and of all records within it."""
    for name, hint in get_type_hints(record).items():
        if name in record.model_fields:
            yield name
            yield from (inner for part in records_in(hint) for inner in fields_of(part))


def records_in(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for inner in get_args(hint):
        yield from records_in(inner)


def words_in_code(line: str) -> list[str]:
    return [word for code in re.findall(r"`([^`]+)`", line) for word in re.findall(r"\w+", code)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_report_is_explained(kind: type[BaseModel]) -> None:
    explained = {word for page in PAGES for line in page.read_text().splitlines() for word in words_in_code(line)}
    names = {re.sub(r"_(low|high)$", "", name) for name in fields_of(kind)}
    assert len(names) > 30
    assert names - explained - {"low", "high"} == set()


def test_what_the_page_of_the_report_names_first_is_a_field() -> None:
    table = PAGES[0].read_text().partition("## Figures of a part")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in words_in_code(row.split("|")[1])}
    assert named - {name for kind in KINDS for name in fields_of(kind)} == set()


def test_help_loads_no_pydantic() -> None:
    script = "import sys; from headroom import cli; cli.run(['--help']); sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=False).returncode == 0
