"""Several corpora in one job: each is measured by itself against its own budget, and the worst decides."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import headroom  # noqa: F401  # registers the format
from headroom.contract.compress import CalibratedDriftBudget
from service.compression.drift.evaluation_sets import EvaluationSet, outside_shares
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.statistics import Statistics
from service.compression.text.examples import next_token_examples
from service.ports.engine import CorpusFile, EngineOutcome, EngineTask, Verdict
from service.ports.models import LocalModel
from tests.tiny_models import make_text

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]

OTHER = "".join(chr(ord("A") + (7 * index * index + index) % 58) for index in range(8000))


def test_each_corpus_is_reported_with_its_own_budget_and_as_stored(make_task: MakeTask, run: Run) -> None:
    task = make_task(texts={"letters": OTHER}, budgets={"letters": {"perplexity": 5.0, "kl": None}})
    outcome = run(task)
    assert outcome.verdict is Verdict.PUBLISH
    own, other = outcome.report["corpora"]
    assert (own["name"], other["name"]) == ("corpus", "letters")
    assert (own["budget"]["perplexity"], other["budget"]["perplexity"]) == (9.0, 5.0)
    assert own["selected"] == outcome.report["selected"]
    assert own["digest"] != other["digest"]
    assert other["baseline"]["perplexity"] != own["baseline"]["perplexity"]
    assert other["stored"]["perplexity_drift"] == pytest.approx(other["selected"]["perplexity_drift"], abs=1e-3)
    assert other["evaluation_tokens"] > 900


def test_the_same_text_as_its_own_job_gives_the_same_baseline(make_task: MakeTask, run: Run) -> None:
    """Measured beside another corpus or alone: the windows of a text do not depend on its company."""
    first = run(make_task(texts={"letters": OTHER})).report["corpora"][1]
    again = run(make_task(texts={"words": make_text(6000, seed=3), "letters": OTHER})).report["corpora"][2]
    assert again == first


def test_one_corpus_over_its_budget_rejects_the_job(make_task: MakeTask, run: Run) -> None:
    task = make_task(ratio=0.5, texts={"letters": OTHER}, budgets={"letters": {"perplexity": 9.0, "kl": 1e-7}})
    outcome = run(task)
    assert outcome.verdict is Verdict.REJECT
    assert [one["selected"]["passes"] for one in outcome.report["corpora"]] == [True, False]
    assert outcome.report["selected"]["passes"] is False
    assert outcome.report["largest_passing_ratio"] is None
    assert list(task.staging.iterdir()) == []


def test_auto_takes_the_fewest_columns_that_pass_everywhere(make_task: MakeTask, run: Run) -> None:
    asked = {"ratio": "auto", "drift": {"perplexity": 9.0, "kl": 0.5}, "options": {"head_dtype": "source"}}
    alone = run(make_task(**asked)).report
    texts, budgets = {"letters": OTHER}, {"letters": {"perplexity": 9.0, "kl": 0.05}}
    report = run(make_task(**asked, texts=texts, budgets=budgets)).report
    assert report["selected"]["kept_columns"] > alone["selected"]["kept_columns"]
    own, other = (
        {point["kept_columns"] for point in one["curve"] if point["kl_mean"] <= one["budget"]["kl"]}
        for one in report["corpora"]
    )
    assert report["selected"]["kept_columns"] == min(own & other)


def make_hidden(folder: Path, h: torch.Tensor) -> HiddenStates:
    path = folder / f"{len(list(folder.iterdir()))}.bin"
    path.write_bytes(h.float().numpy().tobytes())
    return HiddenStates(path, torch.float32, h.shape[1], next_token_examples(torch.zeros(1, h.shape[0] + 1).long()))


def test_hidden_states_outside_the_calibrations_main_directions_are_seen(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    calibration = torch.randn(4000, 6, dtype=torch.float64, generator=generator) * torch.tensor(
        [9, 5, 3, 0.1, 0.1, 0.1]
    )
    calibration += 4.0
    nothing = torch.zeros(0)
    statistics = Statistics(torch.tensor(4000), nothing, calibration.sum(0), calibration.T @ calibration, nothing)
    covariance = torch.cov(calibration.T, correction=0)
    expected = covariance.diag()[3:].sum() / covariance.trace()  # three directions hold 99 %
    sets = [
        EvaluationSet(name, "", make_hidden(tmp_path, h), CalibratedDriftBudget())
        for name, h in (("alike", calibration), ("other", calibration.flip(1)))
    ]
    alike, other = outside_shares(sets, statistics)
    assert alike == pytest.approx(float(expected), rel=0.05)
    assert other > 0.9


def test_a_text_of_a_kind_that_the_calibration_never_saw_is_pointed_out(make_task: MakeTask, run: Run) -> None:
    generator = random.Random(0)
    first, second = ("".join(generator.choices("ab", k=9000)) for _ in range(2))
    task = make_task(texts={"alike": first, "letters": OTHER})
    task.corpus.path.write_text(second)
    report = run(task).report
    own, alike, letters = (one["outside_share"] for one in report["corpora"])
    assert own < 0.02
    assert alike < 1.25 * own < letters
    found = [text for text in report["warnings"] if "does not cover" in text]
    assert len(found) == 1
    assert "'letters'" in found[0]


@pytest.mark.shared
@pytest.mark.slow
def test_encyclopedia_and_prose_are_foreign_to_a_calibration_on_documentation(
    make_task: MakeTask, run: Run, shared: Path
) -> None:
    corpora = shared / "corpora"
    options = {"window": 256, "calibration_tokens": 4096, "evaluation_tokens": 512, "compare": []}
    texts = {name: (corpora / f"{name}-valid.txt").read_text() for name in ("prose", "wikitext-2")}
    task = make_task(texts=texts, ratio=0.5, options=options)
    task = replace(
        task,
        corpora=(CorpusFile(corpora / "docs-valid.txt", "text", None), *task.corpora[1:]),
        models=(LocalModel("acme/real", None, shared / "models" / "docs-gpt2-13m"),),
    )
    warnings = [text for text in run(task).report["warnings"] if "does not cover" in text]
    assert ["'prose'" in warnings[0], "'wikitext-2'" in warnings[1]] == [True, True]
