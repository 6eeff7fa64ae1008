"""The search for a budget: against trying every head there is, and through the whole engine."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

import headroom  # noqa: F401  # registers the format
from headroom.contract.compress import Budget, CalibratedDriftBudget, ColumnDtype
from service.compression.drift.candidate import Candidate
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.evaluation_sets import EvaluationSet
from service.compression.drift.frontier import COLUMNS, Frontier, sizes_for
from service.compression.drift.gate import Choice, Measured
from service.compression.drift.planes.rescored_drift import PlaneReading
from service.models.head_bytes import HeadShape
from service.models.model_files import inspect_model
from service.ports.engine import EngineOutcome, EngineTask, Verdict
from tests.factories import make_recipe

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]
SHAPE = HeadShape(vocab_size=1000, hidden_size=128, item=2, bias=True, permutation=False)
BEFORE = 2 * 1000 * 128
ADDED = {"source": 0.0, "int8": 0.0002, "int4": 0.003}  # drift by rounding


def make_point(kept: int, added: float = 0.0, steepness: float = 4.0) -> DriftPoint:
    drift = 0.3 * (1 - kept / 128) ** steepness + added
    return DriftPoint(1 - kept / 128, kept, 9.0, drift, 0.9 * drift, 1.1 * drift, drift, drift, drift, 1 - drift)


def make_frontier(budget: Budget, steepness: float = 4.0, allowed: float = 0.01) -> tuple[Frontier, list[Any]]:
    """A frontier over every eighth size of a head whose drift is known, and the measurements that it asks for."""
    curve = [make_point(kept, steepness=steepness) for kept in range(8, 129, 8)]
    one = EvaluationSet.__new__(EvaluationSet)
    object.__setattr__(one, "budget", CalibratedDriftBudget(perplexity=budget.drift or allowed, kl=None))
    choice = Choice([Measured(one, curve, 9.0, {})], None, [])
    asked: list[Any] = []

    def measure(kept: int, head_dtype: ColumnDtype) -> list[DriftPoint]:
        asked.append((kept, head_dtype))
        return [make_point(kept, ADDED[head_dtype], steepness)]

    frontier = Frontier(choice, SHAPE, BEFORE, budget, measure)
    frontier.search()
    return frontier, asked


def every_head(steepness: float) -> list[tuple[float, float]]:
    """(share of the bytes, upper end of the drift) of all sizes and precisions."""
    return [
        (
            SHAPE.nbytes(kept, head_dtype) / BEFORE,
            make_point(kept, ADDED[head_dtype], steepness).perplexity_drift_high,
        )
        for kept in range(8, 129, 8)
        for head_dtype in COLUMNS
        if not (kept == 128 and head_dtype == "source")
    ]


@pytest.mark.parametrize("steepness", [1.5, 3.0, 6.0])
@pytest.mark.parametrize("share", [0.12, 0.2, 0.3, 0.55, 0.9])
def test_at_a_number_of_bytes_the_head_of_least_drift_is_found(share: float, steepness: float) -> None:
    frontier, asked = make_frontier(Budget(head_bytes=share), steepness, allowed=9.0)
    best = min(drift for size, drift in every_head(steepness) if size <= share)
    assert frontier.serving[0].worst == pytest.approx(best)
    assert frontier.serving[0].share <= share
    assert len(asked) == frontier.measured <= 4


@pytest.mark.parametrize("steepness", [1.5, 3.0, 6.0])
@pytest.mark.parametrize("drift", [0.002, 0.01, 0.05])
def test_at_a_drift_the_smallest_head_is_found(drift: float, steepness: float) -> None:
    frontier, asked = make_frontier(Budget(drift=drift), steepness)
    assert frontier.serving[0].share == pytest.approx(
        min(size for size, found in every_head(steepness) if found <= drift)
    )
    assert len(asked) == frontier.measured <= 8  # of 32 rounded heads


def test_what_cannot_be_best_is_not_measured() -> None:
    frontier, asked = make_frontier(Budget(head_bytes=0.2), steepness=1.5, allowed=9.0)
    assert frontier.left_out == 1  # 8-bit columns are so few at these bytes that unrounded they are worse already
    assert sorted(head_dtype for _, head_dtype in asked) == ["int4", "int4", "int8"]


def test_a_budget_that_nothing_meets_names_the_nearest_head() -> None:
    frontier, _ = make_frontier(Budget(head_bytes=0.05))
    assert frontier.serving == []
    assert frontier.nearest.passes
    assert frontier.nearest.share == min(one.share for one in frontier.found if one.passes)
    strict, _ = make_frontier(Budget(drift=1e-5))
    assert strict.serving == []
    assert strict.nearest.worst == min(one.worst for one in strict.found if one.share < 1)


def test_the_sweep_holds_the_widest_head_of_each_precision_that_fits() -> None:
    sizes = sizes_for(Budget(head_bytes=0.2), SHAPE, BEFORE, 8)
    assert sizes[-1] == 128
    for head_dtype in ("source", "int8", "int4"):
        widest = max(kept for kept in range(8, 129, 8) if SHAPE.nbytes(kept, head_dtype) <= 0.2 * BEFORE)
        assert widest in sizes
    assert sizes_for(Budget(drift=0.01), SHAPE, BEFORE, 8) == [128]


def test_points_that_another_beats_in_both_are_not_efficient() -> None:
    frontier, _ = make_frontier(Budget(head_bytes=0.3), allowed=9.0)
    points = frontier.told(frontier.serving[0]).points
    kept = [one for one in points if one.efficient]
    assert [one.share for one in kept] == sorted(one.share for one in kept)
    drifts = [one.perplexity_drift_high for one in kept]
    assert drifts == sorted(drifts, reverse=True)
    assert sum(one.chosen for one in points) == 1


@pytest.mark.parametrize("kind", [{"family": "gpt2", "tied": True}, {"family": "llama", "tied": False}], ids=str)
def test_a_job_stores_the_head_that_its_budget_of_bytes_chose(
    make_task: MakeTask, run: Run, kind: dict[str, Any]
) -> None:
    asked = {"ratio": "auto", "budget": {"head_bytes": 0.6}, "options": {"compare": []}}
    task = make_task(model=kind | {"dtype": torch.bfloat16}, **asked)
    outcome = run(task)
    report = outcome.report
    assert outcome.verdict is Verdict.PUBLISH
    (chosen,) = [one for one in report["frontier"]["points"] if one["chosen"]]
    assert chosen["head_bytes"] == report["bytes"]["head_after"] <= 0.6 * report["bytes"]["head_before"]
    assert chosen["head_dtype"] == report["head_dtype"]
    assert report["selected"]["perplexity"] == chosen["perplexity"]
    assert report["frontier"]["measured"] == sum(
        p["head_dtype"] in ("int8", "int4") for p in report["frontier"]["points"]
    )
    assert "the best for this budget" in report["advice"]
    stored = inspect_model(task.staging)
    assert sum(entry.nbytes for entry in stored.tensors.values()) == report["bytes"]["checkpoint_after"]
    AutoModelForCausalLM.from_pretrained(task.staging)


def test_a_job_whose_budget_nothing_meets_is_rejected_with_the_frontier_and_the_nearest_head(
    make_task: MakeTask, run: Run
) -> None:
    outcome = run(make_task(ratio="auto", budget={"drift": 1e-9}, drift={"kl": 1e-12}, options={"compare": []}))
    assert outcome.verdict is Verdict.REJECT
    frontier, report = outcome.report["frontier"], outcome.report
    assert report["budget"]["perplexity"] == 1e-9
    assert frontier["nearest"]["perplexity"] == report["selected"]["perplexity"]
    assert not any(one["serves"] for one in frontier["points"])
    assert "Nothing was stored" in report["advice"]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"budget": {}}, "give one of them"),
        ({"budget": {"head_bytes": 0.3, "drift": 0.01}}, "give one of them"),
        ({"budget": {"read_bytes": 0.3, "stored_bytes": 0.5}}, "give one of them"),
        ({"budget": {"head_bytes": 0.3}, "ratio": 0.5}, "chooses ratio and precision"),
        ({"budget": {"drift": 0.01}, "options": {"head_dtype": "int8"}}, "chooses ratio and precision"),
        ({"budget": {"drift": 0.01}, "drift": {"perplexity": 0.02}}, "give one of them"),
        ({"budget": {"kl": 0.01}, "drift": {"kl": 0.02}}, "give one of them"),
        ({"budget": {"kl": 0.01}, "options": {"planes": {"bits": 4}}}, "chooses ratio and precision"),
        ({"budget": {"head_bytes": 0.3}, "options": {"keep_removed": True}}, "cannot be restored"),
        ({"budget": {"head_bytes": 1.5}}, "less than or equal to 1"),
    ],
)
def test_a_budget_that_contradicts_the_rest_is_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        make_recipe(**{"ratio": "auto"} | fields)


def test_a_recipe_with_a_budget_survives_the_job_store() -> None:
    recipe = make_recipe(ratio="auto", budget={"drift": 0.004}, drift={"kl": 0.1})
    assert recipe.drift.perplexity == 0.004
    assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe


def frontier_with_planes(budget: Budget | None) -> tuple[Frontier, Candidate, list[str]]:
    """A head in planes of 0.31 of the bytes and a KL that only wide heads have, beside the others."""
    base, _ = make_frontier(Budget(head_bytes=0.4), allowed=0.01)
    points = [make_point(128, 0.001)]
    planes = Candidate(
        head_dtype="planes",
        unrounded=points,
        measured=points,
        nbytes=80_000,
        share=80_000 / BEFORE,
        stored_share=0.55,
        passes=True,
        reading=PlaneReading(4, 256),
    )
    asked: list[str] = []

    def measure(kept: int, head_dtype: ColumnDtype) -> list[DriftPoint]:
        asked.append(head_dtype)
        return [make_point(kept, ADDED[head_dtype])]

    frontier = Frontier(base.choice, SHAPE, BEFORE, budget, measure, [planes])
    frontier.search()
    return frontier, planes, asked


def test_without_a_budget_rows_that_cost_a_few_bytes_are_rescored_too() -> None:
    base, _ = make_frontier(Budget(head_bytes=0.4), allowed=0.01)
    drifts = {(0, 0.30): 0.009, (256, 0.31): 0.005, (1024, 0.32): 0.001, (4096, 0.36): 0.0005}
    planes = []
    for (rescored, share), drift in drifts.items():
        points = [make_point(128, drift)]
        reading = PlaneReading(4, rescored)
        planes.append(Candidate("planes", points, points, int(share * BEFORE), share, 0.55, True, reading))
    for passing, expected in ((planes, 1024), (planes[:1] + planes[3:], 0)):
        frontier = Frontier(base.choice, SHAPE, BEFORE, None, lambda kept, head_dtype: [], passing)
        frontier.search()
        reading = frontier.serving[0].reading
        assert reading is not None
        assert reading.rescored == expected
    searched = Frontier(base.choice, SHAPE, BEFORE, Budget(drift=0.01), lambda *asked: [make_point(128, 0.02)], planes)
    searched.search()
    assert searched.serving[0].reading == PlaneReading(4, 0)  # the fewest bytes, as asked


def test_planes_are_taken_where_they_have_the_least_kl_at_the_bytes() -> None:
    frontier, planes, _ = frontier_with_planes(Budget(read_bytes=0.4))
    assert frontier.serving[0] is planes
    narrow, planes, _ = frontier_with_planes(Budget(stored_bytes=0.5))
    assert planes not in narrow.serving
    assert all(one.stored_share <= 0.5 for one in narrow.serving)


def test_without_a_budget_what_reads_least_of_slices_and_planes_is_taken_and_nothing_is_rounded() -> None:
    frontier, planes, asked = frontier_with_planes(None)
    assert asked == []
    passing = [one for one in frontier.found if one.passes]
    assert frontier.serving[0].share == min(one.share for one in passing)
    assert frontier.serving[0] is planes
    assert set(dict(frontier.told(planes).budget).values()) == {None}
