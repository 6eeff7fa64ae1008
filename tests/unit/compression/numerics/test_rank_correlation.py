"""Rank correlation against scipy, by sorting and through bins."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from service.compression.numerics.rank_correlation import binned_spearman, spearman


def test_spearman_agrees_with_scipy_ties_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "service.compression.numerics.rank_correlation.RANKED_VALUES_AT_ONCE", 700
    )  # several chunks of columns
    generator = torch.Generator().manual_seed(0)
    columns = torch.randint(0, 9, (200, 7), generator=generator).float()
    columns[:, 3] = torch.randn(200, generator=generator)
    y = torch.randint(0, 5, (200,), generator=generator).double()
    ours = spearman(columns, y)
    theirs = [spearmanr(columns[:, i].numpy(), y.numpy()).statistic for i in range(7)]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


def test_a_constant_column_correlates_with_nothing() -> None:
    assert spearman(torch.ones(10, 1), torch.arange(10).double()).tolist() == [0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bins_of_16_bit_numbers_lose_nothing(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.cat([torch.randn(500, 18, generator=generator), torch.zeros(500, 1)], dim=1).to(dtype)
    columns[:50, 0], columns[50:100, 0] = 0.0, -0.0  # equal, whatever their bits say
    y = columns[:, 1].double() + torch.randn(500, generator=generator, dtype=torch.float64)
    assert binned_spearman(columns, y).numpy() == pytest.approx(spearman(columns, y).numpy(), abs=1e-12)


@pytest.mark.parametrize("power", [1, 3])
def test_bins_of_other_numbers_are_fine_enough(power: int) -> None:
    columns = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(power)) ** power * 7 + 1e3
    y = columns[:, 0].double() + columns[:, 1].double()
    assert binned_spearman(columns, y).numpy() == pytest.approx(spearman(columns, y).numpy(), abs=1e-4)


def test_a_large_table_is_binned_and_a_small_one_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, y = torch.randn(100, 4), torch.randn(100).double()
    exact = spearman(columns, y)
    monkeypatch.setattr("service.compression.numerics.rank_correlation.SORTED_VALUES", 10)
    binned = spearman(columns, y)
    assert torch.equal(binned, binned_spearman(columns, y))
    assert binned.numpy() == pytest.approx(exact.numpy(), abs=1e-3)
