"""Training kept columns further: it lowers the KL on text it did not see, or changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

import headroom
from headroom.contract.compress import Method
from headroom.errors import InvalidArgument
from headroom.loading.restoring import restore
from service.compression.heads import refining
from service.compression.heads.basis import build_basis
from service.compression.heads.refining import refine
from service.compression.heads.slicing import SlicedFactors, slice_head, stored_logits
from service.compression.states.source import Source, open_source
from service.ports.engine import EngineOutcome, EngineTask, Verdict
from tests.factories import make_recipe

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]
CPU = torch.device("cpu")
OPTIONS = {"refine": True, "compare": []}
KINDS = [
    pytest.param({"family": "gpt2", "tied": True}, id="gpt2-tied"),
    pytest.param({"family": "llama", "tied": False}, id="llama-untied"),
]


@pytest.fixture(autouse=True)
def a_short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 24, "CHECK_EVERY": 4, "POSITIONS_OF_STEP": 128, "POSITIONS": 1024}.items():
        monkeypatch.setattr(refining, name, value)


def sliced(task: EngineTask, method: Method = Method.PROBABILITY) -> tuple[Source, SlicedFactors]:
    source = open_source(task, CPU, lambda done: None)
    statistics = source.statistics(method, CPU, lambda done: None)
    basis = build_basis(method, source.head.weight, statistics, 0)
    return source, slice_head(source.head, basis, 8, statistics.mean_hidden, repair=True)


@pytest.mark.parametrize("kind", KINDS)
def test_refining_lowers_the_divergence_on_windows_it_did_not_train_on(
    make_task: MakeTask, kind: dict[str, Any]
) -> None:
    source, factors = sliced(make_task(model=kind))
    told: list[float] = []
    shared = source.head.is_tied
    settings = {"shares_table": shared, "seed": 0, "device": CPU}
    refined, found = refine(factors, source.head, source.calibration, progress=told.append, **settings)
    assert found.helped
    assert found.kl_after < found.kl_before
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert torch.equal(refined.weight, factors.weight) is shared  # the input embedding reads it
    # The figure is that of the factors as they are, on the held-out windows: measured again, plainly.
    drawn, windows = refining._draw(source.calibration, 0)
    hidden = drawn[windows % refining.HELD_OUT == 0]
    full = source.head.logits_of(hidden @ source.head.weight.T).log_softmax(1)
    for each, expected in ((factors, found.kl_before), (refined, found.kl_after)):
        kept = stored_logits(source.head, each, hidden).log_softmax(1)
        divergence = float((full.exp() * (full - kept)).sum(1).mean())
        assert divergence == pytest.approx(expected, rel=1e-3)
    again, _ = refine(factors, source.head, source.calibration, **settings)
    assert torch.equal(again.weight, refined.weight)
    assert torch.equal(again.bias, refined.bias)


def test_what_does_not_help_on_held_out_windows_is_not_kept(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refining, "MATRIX_RATE", 50.0)
    monkeypatch.setattr(refining, "BIAS_RATE", 50.0)
    source, factors = sliced(make_task(model={"family": "llama", "tied": False}))
    kept, found = refine(factors, source.head, source.calibration, shares_table=False, seed=0, device=CPU)
    assert kept is factors
    assert not found.helped
    assert found.kl_after == found.kl_before
    assert found.steps == refining.CHECK_EVERY * refining.PATIENCE  # it stopped early


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("head_dtype", "method"), [("source", "probability"), ("int4", "probability"), ("source", "slope")]
)
def test_a_refined_head_is_stored_as_measured_and_read_in_one_size_only(
    make_task: MakeTask, run: Run, tmp_path: Any, kind: dict[str, Any], head_dtype: str, method: str
) -> None:
    task = make_task(
        model=kind | {"dtype": torch.bfloat16}, ratio=0.75, method=method, options=OPTIONS | {"head_dtype": head_dtype}
    )
    outcome = run(task)
    report = outcome.report
    assert outcome.verdict is Verdict.PUBLISH
    assert report["refinement"]["helped"]
    assert report["stored"]["perplexity"] == pytest.approx(report["selected"]["perplexity"], rel=1e-2)
    assert report["unrounded"]["kl_mean"] != report["selected"]["kl_mean"]
    if head_dtype == "source":
        assert report["selected"]["kl_mean"] < report["unrounded"]["kl_mean"]
    model = AutoModelForCausalLM.from_pretrained(task.staging)
    with pytest.raises(InvalidArgument):
        headroom.set_kept_columns(model, 4)
    model.save_pretrained(tmp_path / "again")
    ids = torch.arange(20)[None]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(model(ids).logits, again(ids).logits)
    with pytest.raises(InvalidArgument, match="take the source model"):
        restore(task.staging, tmp_path / "restored")


def test_a_fixed_ratio_over_its_budget_is_refined_before_it_is_refused(make_task: MakeTask, run: Run) -> None:
    report = run(make_task(ratio=0.75, options={"compare": []})).report
    allowed = report["selected"]["kl_mean"] * 0.999
    budget = {"perplexity": 9.0, "kl": allowed}
    assert run(make_task(ratio=0.75, drift=budget, options={"compare": []})).verdict is Verdict.REJECT
    outcome = run(make_task(ratio=0.75, drift=budget, options=OPTIONS))
    assert outcome.verdict is Verdict.PUBLISH
    assert outcome.report["selected"]["kl_mean"] <= allowed


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"options": {"refine": True, "keep_removed": True}}, "refined head cannot be restored"),
        ({"ratio": 0.0, "options": {"refine": True, "head_dtype": "int8"}}, "nothing to refine"),
    ],
)
def test_what_cannot_be_refined_is_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        make_recipe(**fields)
