"""A head in the columns of a basis, block by block, against the same in one expression."""

from dataclasses import replace

import pytest
import torch

from headroom.contract.compress import Method
from service.compression.heads.basis import Basis
from service.compression.heads.slicing import ROWS_IN_CACHE, slice_head
from service.compression.states.lm_head import LmHead, Transform

VOCAB, HIDDEN = 2 * ROWS_IN_CACHE + 77, 24
IMPORTANCE = torch.linspace(1, 0, HIDDEN, dtype=torch.float64)


def make_head(dtype: torch.dtype) -> LmHead:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype)
    return LmHead(
        weight, torch.randn(VOCAB, generator=generator).to(dtype), Transform(), "lm_head", "embed", False, 1.0
    )


def make_mean() -> torch.Tensor:
    return torch.randn(HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def permutation() -> Basis:
    return Basis(Method.SLOPE, IMPORTANCE, order=torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(2)))


def general() -> Basis:
    synthesis = torch.randn(HIDDEN, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Basis(Method.PROBABILITY, IMPORTANCE, synthesis=synthesis, analysis=torch.linalg.inv(synthesis))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kept", [1, 11, HIDDEN])
def test_permuted_columns_are_those_of_the_head_bit_for_bit(dtype: torch.dtype, kept: int) -> None:
    head, basis, mean = make_head(dtype), permutation(), make_mean()
    head.weight.view(torch.int16)[5, :4] = 0x7F81  # in 16 bits NaNs with a payload
    factors = slice_head(head, basis, kept, mean, repair=False)
    bits = torch.int32 if dtype is torch.float32 else torch.int16
    assert basis.order is not None
    assert torch.equal(factors.weight.view(bits), head.weight[:, basis.order[:kept]].contiguous().view(bits))
    assert torch.equal(factors.rest.view(bits), head.weight[:, basis.order[kept:]].contiguous().view(bits))


@pytest.mark.parametrize("kept", [1, 11, HIDDEN])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_repaired_bias_adds_what_the_removed_columns_give_for_the_mean(kept: int, with_bias: bool) -> None:
    head, basis, mean = make_head(torch.float32), permutation(), make_mean()
    head = head if with_bias else replace(head, module_bias=None)
    factors = slice_head(head, basis, kept, mean, repair=True)
    assert basis.order is not None
    removed = basis.order[kept:]
    bias = head.weight.double()[:, removed] @ mean[removed]
    bias = bias if head.bias is None else bias + head.bias.double()
    assert factors.bias is not None
    torch.testing.assert_close(factors.bias, bias.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kept", [1, 11, HIDDEN])
def test_a_general_basis_is_exact_for_the_mean_after_rounding(dtype: torch.dtype, kept: int) -> None:
    head, basis, mean = make_head(dtype), general(), make_mean()
    factors = slice_head(head, basis, kept, mean, repair=True)
    assert basis.synthesis is not None
    turned = head.weight.double() @ torch.linalg.qr(basis.synthesis).Q
    whole = torch.cat([factors.weight, factors.rest], dim=1)
    torch.testing.assert_close(whole, turned.to(dtype), rtol=1e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-5)
    assert factors.bias is not None
    assert factors.projection is not None
    assert head.bias is not None
    stored = factors.weight.double() @ (factors.projection.double() @ mean)
    bias = head.bias.double() + head.weight.double() @ mean - stored
    torch.testing.assert_close(factors.bias, bias.to(dtype), rtol=1e-5, atol=1e-5)
