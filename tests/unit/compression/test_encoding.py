"""Regression and rank correlation against scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression

from service.compression.encoding import encode, minimum_norm_solution, predict, regress, spearman


def made_up(rows: int = 500, hidden: int = 12, noise: float = 0.3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, hidden, generator=generator) + 3.0
    slope = torch.randn(hidden, generator=generator, dtype=torch.float64)
    y = weight.double() @ slope + 5.0 + noise * torch.randn(rows, generator=generator, dtype=torch.float64)
    return weight, y


def test_slopes_intercept_and_r2_agree_with_scikit_learn() -> None:
    weight, y = made_up()
    ours = regress(weight, y)
    theirs = LinearRegression().fit(weight.double().numpy(), y.numpy())
    np.testing.assert_allclose(ours.slope.numpy(), theirs.coef_, rtol=1e-9)
    assert ours.intercept == pytest.approx(theirs.intercept_, rel=1e-9)
    assert ours.r2 == pytest.approx(theirs.score(weight.double().numpy(), y.numpy()), rel=1e-9)
    assert ours.adjusted_r2 == pytest.approx(1 - (1 - ours.r2) * 499 / (500 - 12 - 1), rel=1e-12)
    assert ours.rank == 12


def test_a_rank_deficient_head_gives_the_minimum_norm_solution_and_its_rank() -> None:
    weight, y = made_up()
    weight = torch.cat([weight, weight[:, :3], torch.full((500, 1), 2.0)], dim=1)
    ours = regress(weight, y)
    centered = weight.double().numpy() - weight.double().numpy().mean(0)
    theirs, _, rank, _ = np.linalg.lstsq(centered, y.numpy() - y.numpy().mean(), rcond=1e-10)
    assert ours.rank == rank == 12
    np.testing.assert_allclose(ours.slope.numpy(), theirs, atol=1e-8)


def test_minimum_norm_solution_of_nothing_is_nothing() -> None:
    solution, rank = minimum_norm_solution(torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    assert rank == 0
    assert solution.tolist() == [0, 0, 0]


def test_r2_on_held_out_rows_agrees_with_a_refit_by_scikit_learn() -> None:
    weight, y = made_up()
    ours = encode(weight, y, torch.ones(12, dtype=torch.float64), seed=3).r2_held_out
    order = torch.randperm(500, generator=torch.Generator().manual_seed(3)).numpy()
    x, target = weight.double().numpy(), y.numpy()
    model = LinearRegression().fit(x[order[:400]], target[order[:400]])
    assert ours == pytest.approx(model.score(x[order[400:]], target[order[400:]]), rel=1e-9)


def test_sparsity_ends_at_full_r2_and_never_falls() -> None:
    weight, y = made_up(hidden=40)
    found = encode(weight, y, torch.ones(40, dtype=torch.float64), seed=0)
    values = [r2 for _, r2 in found.sparsity]
    assert values == sorted(values)
    assert found.sparsity[-1] == (40, pytest.approx(found.regression.r2))


def test_the_cosine_is_one_when_the_slope_is_minus_the_mean_hidden_state() -> None:
    weight, _ = made_up()
    mean = torch.arange(12, dtype=torch.float64) - 4
    found = encode(weight, weight.double() @ -mean, mean, seed=0)
    assert found.slope_cosine_mean_hidden == pytest.approx(1.0)
    assert found.spearman == pytest.approx(1.0)
    assert predict(weight, found.regression) == pytest.approx((weight.double() @ -mean).numpy())


def test_spearman_agrees_with_scipy_ties_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.compression.encoding.RANKED_VALUES_AT_ONCE", 700)  # several chunks of columns
    generator = torch.Generator().manual_seed(0)
    columns = torch.randint(0, 9, (200, 7), generator=generator).float()
    columns[:, 3] = torch.randn(200, generator=generator)
    y = torch.randint(0, 5, (200,), generator=generator).double()
    ours = spearman(columns, y)
    theirs = [spearmanr(columns[:, i].numpy(), y.numpy()).statistic for i in range(7)]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


def test_a_constant_column_correlates_with_nothing() -> None:
    assert spearman(torch.ones(10, 1), torch.arange(10).double()).tolist() == [0.0]
