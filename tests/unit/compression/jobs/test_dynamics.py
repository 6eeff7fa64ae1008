"""A dynamics job: figures of every checkpoint against independent ones, and what it finds in real training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression

from headroom.contract.dynamics import DynamicsRecipe
from headroom.contract.report.dynamics import TrainingCheckpoint
from headroom.contract.report.encoding import RegressionFigures
from headroom.contract.report.source import ModelOfReport
from service.adapters.remote.local_models import LocalModels
from service.compression.jobs.dynamics import readable
from service.compression.jobs.engines import run_engine
from service.compression.states.source import open_source
from service.foundation.errors import UnsupportedModel
from service.ports.engine import CorpusFile, EngineTask, Verdict
from service.ports.models import LocalModel
from tests.reports import as_stored
from tests.tiny_models import make_model

MakeTask = Callable[..., EngineTask[Any]]


def checkpoint(folder: Path, **fields: Any) -> LocalModel:
    """An earlier state, without a tokenizer, as training leaves them."""
    make_model(**fields).save_pretrained(folder)
    return LocalModel("acme/tiny", folder.name, folder)


def dynamics_task(task: EngineTask[Any], *checkpoints: LocalModel) -> EngineTask[DynamicsRecipe]:
    reading = task.recipe.options.model_dump(include={"seed", "window", "calibration_tokens", "evaluation_tokens"})
    fields = {"kind": "dynamics", "model": "acme/tiny", "corpus": task.recipe.corpus, "options": reading}
    states = [{"id": one.id, "revision": one.revision} for one in checkpoints]
    recipe = DynamicsRecipe.model_validate(fields | {"checkpoints": states})
    return replace(task, recipe=recipe, models=(task.model, *checkpoints))


def test_every_checkpoint_is_measured_on_the_same_tokens(make_task: MakeTask, tmp_path: Path) -> None:
    task = dynamics_task(make_task(), checkpoint(tmp_path / "step-1", seed=1))
    heard: list[float] = []

    outcome = as_stored(run_engine(task, lambda phase, fraction: heard.append(fraction)))

    assert outcome.verdict is Verdict.REPORT
    assert heard == sorted(heard)
    report = outcome.report
    assert [row["model"]["revision"] for row in report["checkpoints"]] == ["step-1", None]
    source = open_source(task, torch.device("cpu"), lambda done: None)
    ids = torch.cat([source.calibration.windows, source.evaluation.windows])[:, 1:].flatten().numpy()
    distinct, counts = np.unique(ids, return_counts=True)
    assert report["frequency_tokens"] == {"positions": ids.size, "distinct": distinct.size}
    for folder, row in (
        (tmp_path / "step-1", report["checkpoints"][0]),
        (tmp_path / "model", report["checkpoints"][1]),
    ):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        x, y = model.get_output_embeddings().weight.detach().double().numpy()[distinct], -np.log(counts / counts.sum())
        theirs = LinearRegression().fit(x, y)
        assert row["frequency"]["r2"] == pytest.approx(theirs.score(x, y))
        assert row["frequency"]["spearman"] == pytest.approx(spearmanr(theirs.predict(x), y).statistic)
        with torch.no_grad():
            windows = source.evaluation.windows
            logits = model(windows).logits[:, :-1].flatten(0, 1)
        assert row["loss"] == pytest.approx(
            float(torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten())), rel=1e-5
        )


def test_a_checkpoint_of_another_vocabulary_is_refused(make_task: MakeTask, tmp_path: Path) -> None:
    task = dynamics_task(make_task(), checkpoint(tmp_path / "step-1", vocab_size=300))

    with pytest.raises(UnsupportedModel, match="checkpoints of one model"):
        run_engine(task, lambda phase, fraction: None)


def row_with(spearman: float, loss: float) -> TrainingCheckpoint:
    figures = RegressionFigures(r2=0.5, r2_adjusted=0.5, r2_held_out=0.5, spearman=spearman)
    model = ModelOfReport(id="acme/tiny", digest="ab")
    return TrainingCheckpoint(model=model, perplexity=9.0, loss=loss, frequency=figures, probability=figures)


@pytest.mark.parametrize(
    ("spearman", "loss", "first", "fallen"),
    [
        ([0.1, 0.5, 0.55], [9.0, 7.0, 5.0], 1, 0.5),
        ([0.5, 0.5, 0.5], [9.0, 7.0, 5.0], 0, 0.0),
        ([-0.3, -0.3, -0.1], [9.0, 7.0, 5.0], 2, 1.0),
        ([0.5, 0.5], [5.0, 5.0], 0, None),
    ],
)
def test_frequency_is_readable_at_the_first_checkpoint_near_the_last(
    spearman: list[float], loss: list[float], first: int, fallen: float | None
) -> None:
    found = readable([row_with(one, other) for one, other in zip(spearman, loss, strict=True)])
    assert (found.share, found.checkpoint, found.loss_fallen) == (0.9, first, fallen)


def test_a_checkpoint_whose_correlation_is_no_number_tells_nothing() -> None:
    found = readable([row_with(0.5, float("inf")), row_with(float("nan"), 7.0), row_with(0.5, 5.0)])
    assert (found.checkpoint, found.loss_fallen) == (0, None)


@pytest.mark.shared
@pytest.mark.slow
def test_frequency_is_readable_long_before_the_loss_has_fallen(
    make_task: MakeTask, tmp_path: Path, shared: Path
) -> None:
    models = LocalModels(shared)
    states = [
        models.fetch("models/docs-gpt2-13m", f"checkpoints/step-{step}", lambda done: None) for step in (16, 64, 1024)
    ]
    task = dynamics_task(
        make_task(options={"window": 256, "calibration_tokens": 2048, "evaluation_tokens": 1024}), *states
    )
    model = models.fetch("models/docs-gpt2-13m", None, lambda done: None)
    corpus = shared / "corpora/prose-valid.txt"

    rows = run_engine(
        replace(task, models=(model, *task.models[1:]), corpora=(CorpusFile(corpus, "text", None),)),
        lambda phase, fraction: None,
    ).report.checkpoints

    losses = [row.loss for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert rows[1].frequency.spearman > 0.9 * rows[-1].frequency.spearman
    assert losses[1] - losses[-1] > 0.4 * (losses[0] - losses[-1])
