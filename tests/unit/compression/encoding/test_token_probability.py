"""Regression and rank correlation against scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from service.compression.encoding.token_probability import encode, minimum_norm_solution, predict, regress


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
    nothing = torch.zeros(3, dtype=torch.float64)
    solution, rank = minimum_norm_solution(nothing, torch.eye(3, dtype=torch.float64), nothing)
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
    values = [r2 for _, r2 in found.sparsity.curve]
    assert values == sorted(values)
    assert found.sparsity.curve[-1] == (40, pytest.approx(found.regression.r2))


def test_the_cosine_is_one_when_the_slope_is_minus_the_mean_hidden_state() -> None:
    weight, _ = made_up()
    mean = torch.arange(12, dtype=torch.float64) - 4
    found = encode(weight, weight.double() @ -mean, mean, seed=0)
    assert found.slope_cosine_mean_hidden == pytest.approx(1.0)
    assert found.spearman == pytest.approx(1.0)
    assert predict(weight, found.regression) == pytest.approx((weight.double() @ -mean).numpy())
