"""Components against scikit-learn's PCA and scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from service.compression.encoding import principal_components as principal_components_module
from service.compression.encoding.principal_components import principal_components
from service.compression.encoding.token_probability import encode


def made_up() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    mix = torch.randn(6, 6, generator=generator)
    weight = torch.randn(400, 6, generator=generator) @ mix + 3
    return weight, weight.double()[:, 1] * 2 + torch.randn(400, generator=generator, dtype=torch.float64)


def test_variances_slopes_and_rank_correlations_agree_with_independent_ones() -> None:
    weight, y = made_up()
    ours = principal_components(weight, y, encode(weight, y, torch.ones(6, dtype=torch.float64), 0))

    theirs = PCA().fit(weight.double().numpy())
    scores = theirs.transform(weight.double().numpy())
    slopes = LinearRegression().fit(scores, y.numpy()).coef_ * scores.std(0) / y.std(correction=0).item()
    rho = [spearmanr(scores[:, i], y.numpy()).statistic for i in range(6)]
    np.testing.assert_allclose(ours.explained_variance, theirs.explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(ours.slope, np.abs(slopes), rtol=1e-5)
    np.testing.assert_allclose(ours.spearman.abs(), np.abs(rho), atol=2e-4)
    assert (ours.slope >= 0).all()


def test_all_components_explain_what_all_columns_do() -> None:
    weight, y = made_up()
    encoding = encode(weight, y, torch.ones(6, dtype=torch.float64), 0)
    ours = principal_components(weight, y, encoding)
    assert ours.sparsity.curve[-1] == (6, pytest.approx(encoding.regression.r2))
    assert float(ours.explained_variance.sum()) == pytest.approx(1.0)


def test_of_a_large_vocabulary_evenly_spaced_rows_are_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, y = made_up()
    encoding = encode(weight, y, torch.ones(6, dtype=torch.float64), 0)
    whole = principal_components(weight, y, encoding)
    monkeypatch.setattr(principal_components_module, "RANKED_ROWS", 150)
    sampled = principal_components(weight, y, encoding)
    assert (whole.ranked_rows, sampled.ranked_rows) == (400, 134)
    scores = (weight.double() - weight.double().mean(0))[::3] @ encoding.spectrum[1].flip(1)
    rho = [spearmanr(scores[:, i], y[::3].numpy()).statistic for i in range(6)]
    np.testing.assert_allclose(sampled.spearman.abs(), np.abs(rho), atol=2e-3)
    assert torch.equal(sampled.slope, whole.slope)


def test_a_direction_without_variance_has_neither_slope_nor_correlation() -> None:
    weight, y = made_up()
    wide = torch.cat([weight, weight[:, :1]], dim=1)
    ours = principal_components(wide, y, encode(wide, y, torch.ones(7, dtype=torch.float64), 0))
    assert float(ours.explained_variance[-1]) == pytest.approx(0.0, abs=1e-12)
    assert float(ours.spearman[-1]) == 0.0
    assert abs(float(ours.slope[-1])) < 1e-6
