"""The best rows of long vectors against a full sort, with ties, rests and numbers that are none."""

import pytest
import torch

from headroom.loading.products.best_rows import STRIDE, best_rows


@pytest.mark.parametrize("vocab", [1, 15, 4096, 4099, 50257])
@pytest.mark.parametrize("most", [1, 30, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_hold_the_values_that_a_sort_puts_first(vocab: int, most: int, dtype: torch.dtype) -> None:
    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(vocab)).to(dtype)
    most = min(most, vocab)
    found = best_rows(logits, most)
    assert found.shape == (3, most)
    assert all(len(set(row.tolist())) == most for row in found)
    expected = logits.sort(dim=1, descending=True).values[:, :most]
    assert torch.equal(logits.gather(1, found).sort(dim=1, descending=True).values, expected)


def test_neighbours_and_entries_behind_the_last_stride_are_found() -> None:
    logits = torch.zeros(1, 1000 * STRIDE + 7)
    best = [0, 1, 2, 3, 1000, 2000, 1000 * STRIDE - 1, 1000 * STRIDE, 1000 * STRIDE + 6]
    logits[0, best] = torch.arange(1.0, 10.0)
    assert sorted(best_rows(logits, 9)[0].tolist()) == sorted(best)


def test_rows_of_a_wider_matrix_are_taken_as_they_lie() -> None:
    wide = torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))
    part = wide[:, :8001]
    assert torch.equal(best_rows(part, 5).sort().values, best_rows(part.contiguous(), 5).sort().values)
