"""Two checkpoints, position by position: against plain transformers, and against what compress reports."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from headroom.contract.answers.job import JobView
from headroom.contract.compare import CompareRecipe
from headroom.contract.report.report import open_report
from headroom.views.rendering import console_for, show
from headroom.views.report_views import report_views
from service.compression.jobs.compare import compare, measure
from service.compression.text.examples import next_token_examples
from service.foundation.errors import ModelsNotComparable, UnsupportedModel
from service.ports.engine import CorpusFile, EngineOutcome, EngineTask, Verdict
from service.ports.models import LocalModel
from service.reports.report_page import write_page
from service.reports.summaries import summarize
from tests.factories import CORPUS_ID, job_told
from tests.reports import as_stored
from tests.tiny_models import make_model, make_text, make_tiny_checkpoint

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]


def compared(task: EngineTask, other: Path, **fields: Any) -> EngineOutcome:
    """The model of a compress task against another checkpoint, on the same windows."""
    reading = {
        name: getattr(task.recipe.options, name) for name in ("window", "calibration_tokens", "evaluation_tokens")
    }
    body = {"kind": "compare", "model": "acme/tiny", "other": "acme/other", "corpus": CORPUS_ID, "options": reading}
    recipe = CompareRecipe.model_validate(body | fields)
    others = (LocalModel("acme/other", None, other),)
    task = dataclasses.replace(task, recipe=recipe, models=(task.model, *others))
    return as_stored(compare(task, lambda phase, done: None))


def test_a_model_against_itself_does_not_move(make_task: MakeTask) -> None:
    task = make_task()
    outcome = compared(task, task.model.path, drift={"perplexity": 0.01, "kl": 0.001})
    whole = outcome.report["bands"][0]
    assert outcome.verdict is Verdict.REPORT
    assert outcome.report["passes"] is True
    assert whole["perplexity_drift"] == whole["perplexity_drift_high"] == whole["kl_mean"] == whole["kl_p99"] == 0
    assert whole["top1_agreement"] == whole["top5_overlap"] == 1
    assert outcome.report["model"]["seconds_per_token"] > 0


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ({"family": "gpt2"}, {}),
        ({"family": "gemma2", "dtype": torch.bfloat16}, {"head_dtype": "int8"}),
        ({"family": "bart"}, {}),
    ],
    ids=["tied", "soft cap, 16 bits, 8-bit head", "pairs, a constant after the head"],
)
def test_a_model_against_its_sliced_self_gives_the_figures_of_compress(
    make_task: MakeTask, run: Run, model: dict[str, Any], options: dict[str, Any]
) -> None:
    task = make_task(model=model, ratio=0.5, options={"compare": [], **options})
    expected = run(task).report

    found = compared(task, task.staging).report

    whole, selected = found["bands"][0], expected["selected"]
    assert found["baseline"]["perplexity"] == pytest.approx(expected["baseline"]["perplexity"], rel=1e-4)
    assert found["perplexity_after"] == pytest.approx(expected["stored"]["perplexity"], rel=1e-4)
    assert whole["perplexity_drift_high"] == pytest.approx(expected["stored"]["perplexity_drift_high"], abs=1e-4)
    assert whole["kl_mean"] == pytest.approx(selected["kl_mean"], rel=0.01)
    assert whole["top1_agreement"] == pytest.approx(selected["top1_agreement"], abs=0.01)
    assert found["other"]["head_bytes"] == expected["bytes"]["head_after"]
    assert found["model"]["head_bytes"] == expected["bytes"]["head_before"]
    assert found["other"]["kept_columns"] == selected["kept_columns"]


def test_the_figures_are_those_of_full_logits_in_plain_transformers() -> None:
    one, other = make_model("cohere"), make_model("cohere", seed=1)
    ids = torch.randint(0, 250, (3, 40), generator=torch.Generator().manual_seed(0))

    drift, alpha = measure(one, other, next_token_examples(ids), lambda done: None)

    with torch.inference_mode():
        p, q = (model(ids).logits[:, :-1].double().log_softmax(-1).flatten(0, 1) for model in (one, other))
    targets = ids[:, 1:].flatten()
    rows = torch.arange(targets.numel())
    assert torch.allclose(drift.before, -p[rows, targets], atol=1e-5)
    assert torch.allclose(drift.after, -q[rows, targets], atol=1e-5)
    assert torch.allclose(drift.divergence.double(), (p.exp() * (p - q)).sum(1), atol=1e-5)
    assert torch.equal(drift.agreement, p.argmax(1) == q.argmax(1))
    shared = [len({*a.tolist()} & {*b.tolist()}) / 5 for a, b in zip(p.topk(5).indices, q.topk(5).indices, strict=True)]
    assert drift.overlap.tolist() == pytest.approx(shared)
    assert torch.allclose(alpha, p.exp().mean(0), atol=1e-6)


def test_over_the_budget_is_rejected(make_task: MakeTask, run: Run) -> None:
    task = make_task(ratio=0.9, method="random", options={"compare": []})
    run(task)
    outcome = compared(task, task.staging, drift={"perplexity": 1.0, "kl": 1e-6})
    assert outcome.verdict is Verdict.REJECT
    assert outcome.report["passes"] is False


def test_groups_of_texts_are_compared_one_by_one_and_every_view_shows_the_report(
    make_task: MakeTask, tmp_path: Path
) -> None:
    task = make_task()
    lines = [json.dumps({"text": text, "kind": kind}) for kind in ("a", "b") for text in make_text().splitlines()]
    (tmp_path / "corpus.txt").write_text("\n".join(lines))
    task = dataclasses.replace(task, corpora=(CorpusFile(task.corpus.path, "jsonl", "text"),))
    other = make_tiny_checkpoint(tmp_path / "other", seed=1)
    options = {"window": 32, "calibration_tokens": 512, "evaluation_tokens": 1024, "group_field": "kind"}

    report = compared(task, other, options=options, drift={"perplexity": 0.5, "kl": None}).report

    assert [group["group"] for group in report["groups"]] == ["a", "b"]
    record = {"id": "job_1", "kind": "compare", "status": "succeeded", "model": {"id": "a/b"}, "corpus": "corpus_1"}
    printed, opened = io.StringIO(), open_report(report)
    show(console_for(printed), *report_views(JobView.read(job_told(**record)), opened))
    assert "B against A" in printed.getvalue()
    assert "budget" in printed.getvalue()
    assert summarize(opened).kl_mean == report["bands"][0]["kl_mean"]
    page = write_page(opened)
    assert "acme/other" in page
    assert "By frequency of the token" in page


def test_models_of_other_vocabularies_are_refused(make_task: MakeTask, tmp_path: Path) -> None:
    other = make_tiny_checkpoint(tmp_path / "other", vocab_size=300)
    with pytest.raises(ModelsNotComparable, match="different vocabularies"):
        compared(make_task(), other)


def test_models_of_another_task_are_refused(make_task: MakeTask, tmp_path: Path) -> None:
    other = make_tiny_checkpoint(tmp_path / "other", "bert")
    make_task()
    transformers.AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(other)
    with pytest.raises(ModelsNotComparable, match="AutoModelForMaskedLM"):
        compared(make_task(), other)


def test_a_sliced_checkpoint_is_still_no_source_for_slicing(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    task = make_task(ratio=0.5, options={"compare": []})
    run(task)
    again = dataclasses.replace(task, models=(LocalModel("acme/sliced", None, task.staging),), staging=tmp_path)
    with pytest.raises(UnsupportedModel, match="compressed already"):
        run(again)
