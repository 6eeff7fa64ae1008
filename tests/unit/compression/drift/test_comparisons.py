"""Other methods beside the chosen one: the same figures as jobs of their own."""

from collections.abc import Callable
from typing import Any

import pytest

from service.compression.drift.comparisons import compared_sizes
from service.ports.engine import EngineOutcome, EngineTask

Make = Callable[..., EngineTask[Any]]
Run = Callable[[EngineTask[Any]], EngineOutcome]


@pytest.mark.parametrize("method", ["slope", "fisher"])  # fisher needs more of the statistics
def test_a_compared_method_has_the_drift_of_a_job_of_its_own(make_task: Make, run: Run, method: str) -> None:
    beside = run(make_task(ratio=0.5, options={"compare": [method], "column_multiple": 1})).report["comparisons"][
        method
    ]
    own = run(make_task(ratio=0.5, method=method, options={"column_multiple": 1})).report["curve"]

    drift = {point["kept_columns"]: point["perplexity_drift"] for point in own}
    assert len(beside) == 5
    for point in beside:
        assert point["perplexity_drift"] == pytest.approx(drift[point["kept_columns"]], abs=1e-6)


def test_the_chosen_method_is_not_compared_with_itself(make_task: Make, run: Run) -> None:
    report = run(make_task(ratio=0.5, method="random", options={"compare": ["slope", "random"]})).report

    assert set(report["comparisons"]) == {"slope"}


def test_a_ratio_that_removes_nothing_is_left_out() -> None:
    assert set(compared_sizes(16, 8)) == {8}
