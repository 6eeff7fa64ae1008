"""What the engines of all kinds of job measure is what the contract of reports says, field by field."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headroom.contract.recipe import RECIPES
from headroom.contract.report.report import VERSION, as_document, open_report, unknown_fields
from service.compression.jobs.engines import run_engine
from service.ports.engine import EngineTask
from service.ports.models import LocalModel
from tests.factories import CORPUS_ID
from tests.tiny_models import make_tiny_checkpoint

OPTIONS = {"window": 32, "calibration_tokens": 1024, "evaluation_tokens": 512}
KINDS: dict[str, dict[str, Any]] = {
    "analyze": {},
    "steer": {"tokens": [{"id": 101, "multiplier": 2.0}], "few_examples": 64},
    "compare": {"other": "acme/other", "drift": {"perplexity": 0.01}},
    "dynamics": {"checkpoints": ["acme/other"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_of_every_kind_of_job_is_known_to_the_contract(
    make_task: Callable[..., EngineTask[Any]], tmp_path: Path, kind: str
) -> None:
    fields = {"kind": kind, "model": "acme/tiny", "corpus": CORPUS_ID, "options": OPTIONS} | KINDS[kind]
    others = [LocalModel("acme/other", None, make_tiny_checkpoint(tmp_path / "other", seed=1))]
    task = replace(
        make_task(),
        recipe=RECIPES.validate_python(fields),
        models=(make_task().model, *(others if kind in ("compare", "dynamics") else ())),
    )
    report = run_engine(task, lambda phase, fraction: None).report
    assert (report.kind, report.version) == (kind, VERSION)
    assert list(unknown_fields(report)) == []
    assert open_report(json.loads(json.dumps(as_document(report), allow_nan=False))) == report
