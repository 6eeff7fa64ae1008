"""An analyze job measures the encoding as a compress job does, and writes nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headroom.contract.analyze import AnalyzeRecipe
from service.compression.jobs.engines import run_engine
from service.ports.engine import EngineOutcome, EngineTask, Verdict
from tests.reports import as_stored


def test_an_analysis_reports_the_encoding_of_a_compression_and_leaves_no_files(
    make_task: Callable[..., EngineTask[Any]], run: Callable[[EngineTask[Any]], EngineOutcome]
) -> None:
    task = make_task(ratio=0.5)
    compressed = run(task).report
    for path in task.staging.iterdir():
        path.unlink()
    fields = task.recipe.model_dump(include={"model", "corpus"})
    reading = task.recipe.options.model_dump(include={"seed", "window", "calibration_tokens", "evaluation_tokens"})
    recipe = AnalyzeRecipe.model_validate(fields | {"kind": "analyze", "options": reading})

    outcome = as_stored(run_engine(replace(task, recipe=recipe), lambda phase, fraction: None))

    assert outcome.verdict is Verdict.REPORT
    assert outcome.report["encoding"] == compressed["encoding"]
    assert outcome.report["kind"] == "analyze"
    assert list(task.staging.iterdir()) == []
