"""How many columns carry the regression, against scikit-learn fits on these columns and a slow loop."""

import pytest
import torch
from sklearn.linear_model import LinearRegression

from service.compression.encoding.token_probability import encode, regress
from service.compression.numerics.row_moments import row_moments, with_other_target
from service.compression.numerics.sparsity import gini, prefix_r2, sparsity_of


def made_up(rows: int = 300, hidden: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(rows, hidden, generator=generator) * torch.logspace(-2, 2, hidden) + 5
    y = weight.double()[:, ::2].sum(1) + 10 * torch.randn(rows, generator=generator, dtype=torch.float64)
    return weight, y


def test_r2_of_every_prefix_agrees_with_a_fit_on_these_columns() -> None:
    weight, y = made_up()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    ours = prefix_r2(*row_moments(weight, y).centered(), order)
    for count in range(1, 11):
        x = weight.double()[:, order[:count]].numpy()
        assert float(ours[count - 1]) == pytest.approx(LinearRegression().fit(x, y).score(x, y), abs=1e-8)


def test_columns_that_depend_on_others_and_constant_ones_add_nothing() -> None:
    weight, y = made_up()
    wide = torch.cat([weight, weight[:, :3] * 2, torch.full((300, 1), 4.0)], dim=1)
    ours = prefix_r2(*row_moments(wide, y).centered(), torch.arange(14))
    assert ours[9:].tolist() == pytest.approx([regress(weight, y).r2] * 5, abs=1e-6)


@pytest.mark.parametrize("seed", [15, 18, 24])  # of these, rounding made the matrix of the columns indefinite
def test_columns_of_one_value_change_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(100, 9000, (1,), generator=generator))
    weight, ones = torch.randn(rows, 10, generator=generator), torch.ones(14, dtype=torch.float64)
    y = weight.double()[:, 0] + torch.randn(rows, generator=generator).double()
    wide = torch.cat([weight, (3 * torch.rand(4, generator=generator)).expand(rows, 4)], dim=1)

    found, without = encode(wide, y, ones, 0), encode(weight, y, ones[:10], 0)

    assert found.regression.rank == 10
    assert found.regression.r2 == pytest.approx(without.regression.r2)
    assert found.r2_held_out == pytest.approx(without.r2_held_out)
    assert found.sparsity.curve[-1] == (14, pytest.approx(without.regression.r2))


def test_dependent_columns_far_from_zero_are_factorised_too() -> None:
    weight, y = made_up(3000)
    far = torch.cat([weight, weight[:, :5], weight[:, 5:] * 3], dim=1).double() + 1e6
    ours = prefix_r2(*row_moments(far, y).centered(), torch.arange(20))
    assert float(ours[-1]) == pytest.approx(regress(weight, y).r2, abs=5e-3)


def test_the_fewest_columns_are_those_that_first_reach_the_share() -> None:
    weight, y = made_up()
    moments = row_moments(weight, y)
    slope = regress(weight, y).slope
    found = sparsity_of(*moments.centered(), slope)
    order = (slope.abs() * moments.deviations()[0]).argsort(descending=True)
    r2 = [regress(weight[:, order[:count]], y).r2 for count in range(1, 11)]
    for share, needed in found.needed.items():
        assert needed == next(count for count, value in enumerate(r2, start=1) if value >= share * r2[-1])


def test_gini_agrees_with_the_mean_difference_of_all_pairs() -> None:
    sizes = torch.tensor([0.0, 1.0, 1.0, 5.0, 12.5], dtype=torch.float64)
    pairs = sum(abs(a - b) for a in sizes.tolist() for b in sizes.tolist())
    assert gini(sizes) == pytest.approx(pairs / (2 * 25 * float(sizes.mean())))
    assert gini(torch.ones(7)) == pytest.approx(0.0)
    assert gini(torch.zeros(7)) == 0.0
    assert gini(torch.eye(100)[0]) == pytest.approx(0.99)


def test_moments_of_parts_add_up_and_another_target_changes_only_its_own_sums() -> None:
    weight, y = made_up()
    whole, halves = row_moments(weight, y), [row_moments(weight, y, rows) for rows in torch.arange(300).split(170)]
    both = halves[0] + halves[1]
    other = with_other_target(whole, weight, y**2)
    again = row_moments(weight, y**2)
    for name in ("rows", "w", "y", "yy", "ww", "wy"):
        torch.testing.assert_close(torch.as_tensor(getattr(both, name)), torch.as_tensor(getattr(whole, name)))
        torch.testing.assert_close(torch.as_tensor(getattr(other, name)), torch.as_tensor(getattr(again, name)))


def test_a_target_that_never_varies_is_fitted_by_nothing() -> None:
    weight, _ = made_up()
    found = encode(weight, torch.full((300,), 0.1, dtype=torch.float64), torch.ones(10, dtype=torch.float64), 0)
    assert found.regression.r2 == 1.0
    assert found.sparsity.needed[0.99] == 1
