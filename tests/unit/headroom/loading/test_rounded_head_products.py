"""Heads of integers give the same logits whichever product a measurement finds to be the quickest."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import headroom
from headroom.errors import InvalidArgument
from headroom.loading.products import product_choice
from headroom.loading.quantized_head import PackedHead, QuantizedHead, RoundedHead, pack

HIDDEN, VOCAB = 48, 301


def make_head(kind: type[RoundedHead], kept: int) -> RoundedHead:
    generator = torch.Generator().manual_seed(0)
    head = kind(HIDDEN, VOCAB, kept, bias=True)
    if isinstance(head, QuantizedHead):
        head.quantized.copy_(torch.randint(-127, 128, (VOCAB, kept), generator=generator))
        head.scale.copy_(torch.full((VOCAB,), 1e-2).view(torch.int32))
    elif isinstance(head, PackedHead):
        head.packed.copy_(pack(torch.randint(-8, 8, (VOCAB, kept), generator=generator, dtype=torch.int8)))
        head.group_scale.copy_(torch.full(head.group_scale.shape, 0.1, dtype=torch.bfloat16).view(torch.int16))
    head.basis.data.copy_(torch.randn(kept, HIDDEN, generator=generator) / HIDDEN**0.5)
    assert head.bias is not None
    head.bias.data.copy_(torch.randn(VOCAB, generator=generator))
    return head


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_choice, "SMALL", 0)
    monkeypatch.setattr(product_choice, "quickest", lambda ways: way if way in ways else min(ways))


@pytest.mark.parametrize("kind", [QuantizedHead, PackedHead])
@pytest.mark.parametrize("kept", [HIDDEN, 24, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["kernel", "blocks", "copy"])
def test_logits_do_not_depend_on_the_way(
    kind: type[RoundedHead], kept: int, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, h = make_head(kind, kept), torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(1))
    expected = head(h)
    head = head.to(dtype)
    take(way, monkeypatch)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02 * float(expected.abs().max())
    torch.testing.assert_close(head(h.to(dtype)).float(), expected, rtol=0, atol=tolerance)
    has_kernel = dtype == torch.bfloat16 and (kind is PackedHead or kept % 16 == 0)
    taken = "blocks" if way == "kernel" and not has_kernel else way
    assert head.products.ways == {(4, str(dtype).removeprefix("torch.")): taken}


@pytest.mark.parametrize(("kept", "entries"), [(HIDDEN, VOCAB * HIDDEN), (16, VOCAB * 16)])
def test_a_wide_copy_has_no_more_entries_than_the_full_head(
    kept: int, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_head(QuantizedHead, kept)
    take("copy", monkeypatch)
    head(torch.randn(2, HIDDEN))
    assert head.products.wide_copy_nbytes == 4 * entries


@pytest.mark.parametrize("kind", [QuantizedHead, PackedHead])
def test_all_ways_are_measured_on_the_first_rows_alone(
    kind: type[RoundedHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_head(kind, 32).bfloat16()
    monkeypatch.setattr("headroom.loading.quantized_head.rows_measured", lambda *size: 64)
    ways = head._ways(torch.randn(2, HIDDEN, dtype=torch.bfloat16))
    assert set(ways) == {"kernel", "blocks", "copy"}
    for way in ways.values():
        found = way()
        assert isinstance(found, torch.Tensor)
        assert found.shape == (2, 64)


def test_a_user_sees_the_ways_and_forbids_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(QuantizedHead, HIDDEN)
    model = SimpleNamespace(get_output_embeddings=lambda: head)
    take("copy", monkeypatch)
    head(torch.randn(2, HIDDEN))
    assert headroom.head_products(model).wide_copy_nbytes == 4 * VOCAB * HIDDEN
    assert headroom.set_wide_copy(model, False) == headroom.HeadProducts({}, False, 0, 0)
    head(torch.randn(2, HIDDEN))
    assert headroom.head_products(model).ways == {(2, "float32"): "blocks"}


def test_a_plain_head_has_no_products_to_choose_from() -> None:
    model = SimpleNamespace(get_output_embeddings=lambda: nn.Linear(3, 4))
    with pytest.raises(InvalidArgument, match="Linear"):
        headroom.set_wide_copy(model, False)
