"""Fits to a few positions, against the same from whole logits of a tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headroom.contract.analyze import AnalyzeRecipe
from headroom.contract.compress import Method
from service.compression.encoding.few_examples import fit_few_examples
from service.compression.encoding.token_probability import encode, predict, regress
from service.compression.states.source import open_source
from service.compression.states.statistics import neg_log_alpha
from service.ports.engine import CorpusFile, EngineTask
from service.ports.models import LocalModel

CPU = torch.device("cpu")


def test_a_fit_to_few_positions_agrees_with_one_from_whole_logits(make_task: Callable[..., EngineTask[Any]]) -> None:
    source = open_source(make_task(), CPU, lambda done: None)
    head, hidden = source.head, source.calibration
    statistics = source.statistics(Method.PROBABILITY, CPU, lambda done: None)
    y, _ = neg_log_alpha(statistics.alpha)
    encoding = encode(head.weight, y, statistics.mean_hidden, 0)

    found = fit_few_examples(hidden, head, y, encoding, CPU)

    assert [fit.tokens for fit in found] == [count for count in (64, 256, 1024) if count < hidden.positions]
    for fit in found:
        rows = next(hidden.blocks(fit.tokens))
        bias = 0.0 if head.bias is None else head.bias
        alpha = head.transform(rows.float() @ head.weight.float().T + bias).softmax(-1).double().mean(0)
        theirs = regress(head.weight, neg_log_alpha(alpha)[0])
        cosine = torch.nn.functional.cosine_similarity(theirs.slope, encoding.regression.slope, dim=0)
        assert fit.slope_cosine == pytest.approx(float(cosine), abs=1e-5)
        residual = (y - predict(head.weight, theirs)).square().sum() / (y - y.mean()).square().sum()
        assert fit.r2 == pytest.approx(1 - float(residual), abs=1e-3)


@pytest.mark.shared
def test_more_tokens_bring_the_slope_of_a_trained_model_closer(tmp_path: Path, shared: Path) -> None:
    fields = {"kind": "analyze", "model": "shared/docs-gpt2-13m", "corpus": "corpus_" + "0" * 32}
    recipe = AnalyzeRecipe.model_validate(fields | {"options": {"calibration_tokens": 4096, "evaluation_tokens": 512}})
    local = LocalModel(recipe.model.id, None, shared / "models/docs-gpt2-13m")
    corpus = shared / "corpora/prose-valid.txt"
    task = EngineTask("job_x", recipe, (local,), (CorpusFile(corpus, "text", None),), tmp_path, tmp_path, "cpu")
    source = open_source(task, CPU, lambda done: None)
    statistics = source.statistics(Method.PROBABILITY, CPU, lambda done: None)
    y, _ = neg_log_alpha(statistics.alpha)
    encoding = encode(source.head.weight, y, statistics.mean_hidden, 0)

    cosines = [fit.slope_cosine for fit in fit_few_examples(source.calibration, source.head, y, encoding, CPU)]

    assert encoding.regression.r2 > 0.9
    assert cosines == sorted(cosines)
    assert cosines[-1] > 0.9
