"""Resampled means against a slow loop that draws one resample at a time."""

import pytest
import torch

from service.compression.numerics import bootstrap
from service.compression.numerics.bootstrap import RESAMPLES, interval_of_means, resampled_means


@pytest.mark.parametrize("at_once", [1, 50, 1 << 16])  # windows: fewer than there are, some resamples, all of them
def test_resamples_are_those_of_a_slow_loop_however_many_are_drawn_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", at_once)
    sums = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    counts = torch.tensor([0, 2, 0, 5, 1, 0, 0])
    generator, means = torch.Generator().manual_seed(5), []
    for _ in range(RESAMPLES):
        drawn = torch.randint(7, (7,), generator=generator)
        if counts[drawn].sum() > 0:
            means.append(sums[drawn].sum(0) / counts[drawn].sum())
    assert len(means) < RESAMPLES  # some drew only windows without positions
    torch.testing.assert_close(resampled_means(sums, counts, 5), torch.stack(means))


def test_windows_without_positions_alone_have_no_interval() -> None:
    low, high = interval_of_means(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3), 0)
    assert low.isnan().all()
    assert high.isnan().all()
