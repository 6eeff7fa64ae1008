"""Edits of rows against whole logits; the stored checkpoint against plain transformers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM

from headroom.contract.steer import SteerRecipe
from service.compression.encoding.row_edits import MULTIPLIERS, Edit, edit_direction, measure_effect
from service.compression.jobs.engines import run_engine
from service.compression.states.lm_head import LmHead, Transform
from service.compression.states.source import Source, open_source
from service.foundation.errors import InvalidToken, UnsupportedHead
from service.ports.engine import CorpusFile, EngineOutcome, EngineTask, Verdict
from service.ports.models import LocalModel
from tests.factories import ENGINE_DEVICE
from tests.reports import as_stored

CPU = torch.device("cpu")
MakeTask = Callable[..., EngineTask[Any]]


@pytest.fixture
def source(make_task: MakeTask) -> Source:
    return open_source(make_task(), CPU, lambda done: None)


def steering(task: EngineTask[Any], **fields: Any) -> EngineTask[Any]:
    base = task.recipe.model_dump(include={"model", "corpus"})
    reading = task.recipe.options.model_dump(include={"seed", "window", "calibration_tokens", "evaluation_tokens"})
    recipe = {"kind": "steer", "tokens": [{"id": 5, "multiplier": 3.0}], "options": reading} | fields
    return replace(task, recipe=SteerRecipe.model_validate(base | recipe))


def steered(task: EngineTask[Any], **fields: Any) -> EngineOutcome:
    return as_stored(run_engine(steering(task, **fields), lambda phase, fraction: None))


@pytest.mark.parametrize("transform", [Transform(), Transform(scale=0.5), Transform(soft_cap=3.0)])
def test_the_effect_agrees_with_whole_logits(source: Source, transform: Transform) -> None:
    head: LmHead = replace(source.head, transform=transform)
    ids = torch.tensor([3, 17, 200])
    slope = torch.randn(head.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edit = Edit(ids, torch.tensor([20.0, 0.2, 3.0], dtype=torch.float64), edit_direction(slope, None))

    ours = measure_effect(source.evaluation, head, edit, CPU, lambda done: None)

    hidden = torch.cat(list(source.evaluation.blocks(64))).double()
    bias = 0.0 if head.bias is None else head.bias.double()

    def log_probabilities(rows: torch.Tensor) -> torch.Tensor:
        table = head.weight.double().clone()
        table[ids] = rows
        return transform(hidden @ table.T + bias).log_softmax(-1)

    before, after = log_probabilities(head.weight[ids].double()), log_probabilities(edit.rows(head.weight))
    p, q = before.exp(), after.exp()
    middle = ((p + q) / 2).log()
    js = ((p * (before - middle)).sum(1) + (q * (after - middle)).sum(1)).mean() / 2
    targets = source.evaluation.targets[:, None]
    theirs = (p.mean(0)[ids], q.mean(0)[ids], (p * (before - after)).sum(1).mean(), js)
    for mine, other in zip((ours.before, ours.after, ours.kl_mean, ours.js_mean), theirs, strict=True):
        torch.testing.assert_close(torch.as_tensor(mine, dtype=torch.float64), other, rtol=1e-4, atol=1e-7)
    assert ours.loss_before == pytest.approx(float(-before.gather(1, targets).mean()), rel=1e-5)
    assert ours.loss_after == pytest.approx(float(-after.gather(1, targets).mean()), rel=1e-5)
    assert ours.others_after == pytest.approx(1 - float(q.mean(0)[ids].sum()), rel=1e-4)
    one = replace(edit, multipliers=torch.tensor([1.0, MULTIPLIERS[-1], 1.0], dtype=torch.float64))
    alone = log_probabilities(one.rows(head.weight)).exp().mean(0)[17]
    assert float(ours.alone[1, -1]) == pytest.approx(float(alone), rel=1e-4)


def test_a_direction_moves_the_fitted_value_by_one_whatever_its_columns() -> None:
    slope = torch.tensor([0.5, -3.0, 2.0, 0.0], dtype=torch.float64)
    for columns in (None, 1, 2, 4, 9):
        assert float(edit_direction(slope, columns) @ slope) == pytest.approx(1.0)
    assert edit_direction(slope, 2).count_nonzero() == 2
    assert torch.equal(edit_direction(slope, 4), edit_direction(slope, None))


@pytest.mark.parametrize("tied", [True, False])
def test_a_stored_checkpoint_is_plain_and_differs_in_the_edited_rows_alone(make_task: MakeTask, tied: bool) -> None:
    task = make_task(model={"tied": tied})
    outcome = steered(task, tokens=[{"id": 5, "multiplier": 8.0}, {"id": 9, "multiplier": 0.5}])

    assert outcome.verdict is Verdict.PUBLISH
    assert "quantization_config" not in json.loads((task.staging / "config.json").read_text())
    before = AutoModelForCausalLM.from_pretrained(task.model.path)
    after = AutoModelForCausalLM.from_pretrained(task.staging)
    old, new = (model.get_output_embeddings().weight for model in (before, after))
    assert torch.equal((old != new).any(1).nonzero().flatten(), torch.tensor([5, 9]))
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    found = outcome.report["steering"]
    assert found["tokens"][0]["obtained"] > 1 > found["tokens"][1]["obtained"]
    assert outcome.report["stored"]["perplexity"] == pytest.approx(found["perplexity_after"], rel=1e-3)


def test_a_multiplier_of_one_changes_nothing(make_task: MakeTask) -> None:
    task = make_task(model={"tied": False})
    found = steered(task, tokens=[{"id": 5, "multiplier": 1.0}]).report["steering"]
    assert found["tokens"][0]["obtained"] == 1.0
    assert found["kl_mean"] == pytest.approx(0.0, abs=1e-12)
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (task.model.path, task.staging))
    assert torch.equal(before.get_output_embeddings().weight, after.get_output_embeddings().weight)


def test_a_job_over_its_budget_is_rejected_with_its_figures_and_stores_nothing(make_task: MakeTask) -> None:
    task = make_task()
    outcome = steered(task, tokens=[{"id": 5, "multiplier": 1e4}], max_kl=1e-9)
    assert outcome.verdict is Verdict.REJECT
    assert outcome.report["steering"]["kl_mean"] > 1e-9
    assert outcome.report["stored"] is None
    assert list(task.staging.iterdir()) == []


def test_tokens_that_cannot_be_steered_are_refused_with_a_sentence(make_task: MakeTask) -> None:
    task = make_task()
    with pytest.raises(InvalidToken, match="is not one token of this model but"):
        steered(task, tokens=[{"text": "one two three", "multiplier": 2.0}])
    with pytest.raises(InvalidToken, match="rows"):
        steered(task, tokens=[{"id": 10**6, "multiplier": 2.0}])
    with pytest.raises(UnsupportedHead, match="untie"):
        steered(task, options={"tied": "keep", "window": 32})


def test_the_slope_may_be_fitted_on_a_few_tokens(make_task: MakeTask) -> None:
    all_of_them = steered(make_task()).report["steering"]
    few = steered(make_task(), few_examples=8).report["steering"]
    assert few["few_examples"] == 8
    assert few["slope_norm"] != all_of_them["slope_norm"]


@pytest.mark.shared
@pytest.mark.slow
def test_a_trained_model_gives_what_was_wanted(tmp_path: Path, shared: Path) -> None:
    tokens = [
        {"id": id_, "multiplier": m} for id_, m in ((300, 0.1), (500, 0.5), (900, 2.0), (1500, 5.0), (2500, 10.0))
    ]
    options = {"calibration_tokens": 4096, "evaluation_tokens": 4096}
    fields = {"kind": "steer", "model": "shared/docs-gpt2-13m", "corpus": "corpus_" + "0" * 32, "tokens": tokens}
    recipe = SteerRecipe.model_validate(fields | {"options": options})
    local = LocalModel(recipe.model.id, None, shared / "models/docs-gpt2-13m")
    staging = tmp_path / "staging"
    staging.mkdir()
    corpus = shared / "corpora/prose-valid.txt"
    task = EngineTask("job_x", recipe, (local,), (CorpusFile(corpus, "text", None),), tmp_path, staging, ENGINE_DEVICE)

    found = as_stored(run_engine(task, lambda phase, fraction: None)).report["steering"]

    wanted = [point["multiplier"] for token in found["tokens"] for point in token["alone"]]
    obtained = [point["obtained"] for token in found["tokens"] for point in token["alone"]]
    assert spearmanr(wanted, obtained).statistic > 0.9
    assert found["log_error_rms"] < 1.0
