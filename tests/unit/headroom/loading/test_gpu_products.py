"""Products with heads of integers on a GPU agree with float64; where Triton does not work, heads do without it."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import headroom
from headroom.loading import quantized_head
from headroom.loading.quantized_head import PackedHead, QuantizedHead, pack

ROUNDING = {torch.bfloat16: 6e-3, torch.float16: 8e-4, torch.float32: 2e-6}  # of the logits, relative


def random_head(kind: type[QuantizedHead] | type[PackedHead], vocab: int, kept: int) -> QuantizedHead | PackedHead:
    head = kind(kept, vocab, kept, bias=False)
    head.basis.copy_(torch.eye(kept))
    if isinstance(head, QuantizedHead):
        head.quantized.random_(-127, 128)
        head.scale.copy_((1e-2 * torch.rand(vocab)).view(torch.int32))
    else:
        head.packed.copy_(pack(torch.randint(-8, 8, (vocab, kept), dtype=torch.int8)))
        head.group_scale.copy_(torch.randn(head.group_scale.shape).to(torch.bfloat16).view(torch.int16))
    return head


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [QuantizedHead, PackedHead])
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize(("vocab", "kept"), [(1, 1), (37, 33), (264, 40), (264, 65), (1000, 320)])
def test_logits_on_a_gpu_are_those_of_the_columns_in_float64(
    kind: type[QuantizedHead] | type[PackedHead], dtype: torch.dtype, vocab: int, kept: int
) -> None:
    head = random_head(kind, vocab, kept)
    columns = head.columns().double()
    head = head.to("cuda", dtype)
    for positions in (1, 3, 16, 17, 64, 65):
        x = torch.randn(positions, kept).to(dtype)
        wanted = x.double() @ columns.T
        error = (head(x.cuda()).cpu().double() - wanted).norm() / wanted.norm().clamp_min(1e-9)
        assert float(error) < ROUNDING[dtype]


@pytest.mark.gpu
def test_triton_works_on_this_gpu() -> None:
    assert quantized_head._gpu_products(torch.device("cuda")) is not None


@pytest.mark.parametrize("kind", [QuantizedHead, PackedHead])
def test_on_a_gpu_too_small_for_a_kernel_rows_are_widened(
    kind: type[QuantizedHead] | type[PackedHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise MemoryError

    small = SimpleNamespace(OutOfResources=MemoryError, int8_product=refuse, int4_product=refuse)
    head, x = random_head(kind, 264, 40), torch.randn(3, 40)
    wanted = head(x)
    monkeypatch.setattr(quantized_head, "_gpu_products_for", lambda x: small)
    torch.testing.assert_close(head(x), wanted)


def test_without_triton_a_warning_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "headroom.loading.products.gpu_products", raising=False)
    monkeypatch.delattr(headroom, "gpu_products", raising=False)
    with pytest.warns(UserWarning, match="run slowly on this GPU.*triton"):
        assert quantized_head._gpu_products.__wrapped__(torch.device("cpu")) is None
