"""A head in planes against slow oracles: whole rows, previews and rescoring written out row by row."""

import copy

import pytest
import torch
from torch import Tensor

from headroom.loading import plane_codes
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead, PlanesTable
from headroom.loading.products import plane_products, product_choice

VOCAB, HIDDEN, WHOLE = 301, 75, 32  # no multiple of anything


def random_basis(size: int, seed: int = 1) -> Tensor:
    basis: Tensor = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed))).Q
    return basis


def fill(table: PlanesTable, matrix: Tensor, basis: Tensor) -> None:
    """The planes of `matrix` (vocab, hidden) in an orthogonal `basis`."""
    codes, scales = plane_codes.round_to_codes(matrix @ basis.T)
    planes = plane_codes.split(codes, table.whole.shape[1])
    for name, part in (("whole", planes.whole), ("high", planes.high), ("low", planes.low)):
        getattr(table, name).copy_(part)
    table.scales.copy_(scales.view(torch.int16))
    table.basis.data.copy_(basis)


def random_matrix() -> Tensor:
    return torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(0))


def make_head(
    *, bits: int = 4, rescored: int = 16, bias: bool = True, table: PlanesEmbedding | None = None
) -> PlanesHead:
    head = PlanesHead(HIDDEN, VOCAB, HIDDEN, WHOLE, bits=bits, rescored=rescored, bias=bias, table=table)
    if table is None:
        fill(head, random_matrix(), random_basis(HIDDEN))
    if head.bias is not None:
        head.bias.data.copy_(torch.randn(VOCAB, generator=torch.Generator().manual_seed(2)))
    return head


def make_embedding(scale: float = 1.0) -> PlanesEmbedding:
    table = PlanesEmbedding(HIDDEN, VOCAB, WHOLE, unbasis=False, scale=scale, padding_idx=None)
    fill(table, random_matrix(), random_basis(HIDDEN))
    return table


def hidden_states(positions: int = 9) -> Tensor:
    return torch.randn(positions, HIDDEN, generator=torch.Generator().manual_seed(3))


def oracle(head: PlanesHead, h: Tensor) -> Tensor:
    """Position by position, row by row, in float64, from the stored tensors alone."""
    table = head.table
    codes = plane_codes.join(plane_codes.Planes(table.whole, table.high, table.low), HIDDEN)
    scales = table.scales.view(torch.bfloat16).double()
    step = 1 << (8 - head.bits)
    bias = torch.zeros(VOCAB, dtype=torch.float64) if head.bias is None else head.bias.double()
    found = torch.empty(h.shape[0], VOCAB, dtype=torch.float64)
    for position, x in enumerate((table.basis.double() @ h.double().T).T):
        exact, preview = torch.empty(VOCAB, dtype=torch.float64), torch.empty(VOCAB, dtype=torch.float64)
        for row in range(VOCAB):
            scale = torch.tensor([float(scales[row, column // 32]) for column in range(HIDDEN)], dtype=torch.float64)
            u = codes[row].double()
            centre = torch.where(
                torch.arange(HIDDEN) < WHOLE, u, u.div(step, rounding_mode="floor") * step + (step - 1) / 2
            )
            exact[row] = ((u - 127.5) * scale) @ x + bias[row]
            preview[row] = ((centre - 127.5) * scale)[: head.preview_columns] @ x[: head.preview_columns] + bias[row]
        best = preview.topk(head.rescored).indices
        preview[best] = exact[best]
        found[position] = preview
    return found


@pytest.mark.parametrize(("bits", "rescored"), [(4, 16), (4, 0), (3, 16), (2, 5), (8, 0), (4, VOCAB)])
def test_logits_are_those_of_the_oracle(bits: int, rescored: int) -> None:
    head = make_head(bits=bits, rescored=rescored)
    h = hidden_states(3)
    torch.testing.assert_close(head(h).double(), oracle(head, h), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("whole", [0, 64])
@pytest.mark.parametrize("size", [64, 75])
def test_no_columns_or_all_of_them_may_be_whole(whole: int, size: int) -> None:
    matrix = torch.randn(VOCAB, size, generator=torch.Generator().manual_seed(0))
    h = torch.randn(3, size, generator=torch.Generator().manual_seed(3))
    heads = [PlanesHead(size, VOCAB, size, whole, bits=bits, rescored=VOCAB, bias=False) for bits in (4, 8)]
    for head in heads:
        fill(head, matrix, random_basis(size))
    rescored, plain = (head(h) for head in heads)
    torch.testing.assert_close(rescored, plain, rtol=1e-5, atol=1e-4)
    assert float((plain - h @ matrix.T).norm() / plain.norm()) < 0.01


def test_rescoring_every_row_is_the_plain_head_of_eight_bits() -> None:
    head, h = make_head(rescored=VOCAB), hidden_states()
    plain = make_head(bits=8, rescored=0)
    torch.testing.assert_close(head(h), plain(h), rtol=1e-5, atol=1e-4)


def test_all_eight_bits_are_close_to_the_matrix_that_was_rounded() -> None:
    head, h = make_head(bits=8, bias=False), hidden_states()
    error = head(h) - h @ random_matrix().T
    assert float(error.norm() / (h @ random_matrix().T).norm()) < 0.01
    assert float((head.dense_weight() - random_matrix()).norm() / random_matrix().norm()) < 0.01


def test_a_preview_of_fewer_columns_leaves_the_others_out_and_rescoring_reads_them() -> None:
    head, h = make_head(rescored=4), hidden_states(2)
    head.read(bits=4, rescored=4, columns=64)
    torch.testing.assert_close(head(h).double(), oracle(head, h), rtol=1e-4, atol=1e-4)


def test_columns_that_are_left_out_are_repaired_by_their_mean() -> None:
    head = PlanesHead(HIDDEN, VOCAB, HIDDEN, WHOLE, bits=8, rescored=0, bias=False, has_mean=True)
    fill(head, random_matrix(), random_basis(HIDDEN))
    h = hidden_states(1)
    full = head(h)
    head.mean_hidden.copy_(h[0].view(torch.int32))
    head.read(bits=8, rescored=0, columns=64)
    torch.testing.assert_close(head(h), full, rtol=1e-4, atol=1e-4)
    head.read(bits=8, rescored=0, columns=HIDDEN)
    assert torch.equal(head(h), full)


def test_shapes_in_front_are_kept_and_many_positions_give_what_each_gives_alone() -> None:
    head = make_head()
    h = hidden_states(80).view(2, 40, HIDDEN)
    found = head(h)
    assert found.shape == (2, 40, VOCAB)
    alone = torch.stack([head(one) for one in h.flatten(0, 1)])
    torch.testing.assert_close(found.flatten(0, 1), alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("columns", [HIDDEN, 64, WHOLE])
def test_the_kernel_of_four_bits_gives_what_widened_rows_give(bits: int, columns: int) -> None:
    head = make_head()
    reading = plane_products.Reading(bits, columns)
    x = hidden_states() @ head.basis.T
    planes = plane_products.arranged(head, reading, 0, VOCAB)
    found = plane_products.by_kernel(x, head, planes, reading)
    expected = plane_products.by_blocks(x.bfloat16().float(), head, reading)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-6 * float(expected.abs().max()))
    # Far closer than one plane less would be.
    assert float((found - expected).norm() / expected.norm()) < 2**-7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_models_get_logits_of_their_dtype_close_to_wide_ones(dtype: torch.dtype) -> None:
    head, h = make_head(), hidden_states()
    narrow = copy.deepcopy(head).to(dtype)
    found = narrow(h.to(dtype))
    assert found.dtype == dtype
    error = (found.float() - head(h)).norm() / head(h).norm()
    assert float(error) < 0.02
    assert torch.equal(narrow.scales, head.scales)


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a measurement find that way to be the quickest."""
    monkeypatch.setattr(product_choice, "SMALL", 0)
    monkeypatch.setattr(plane_products, "SMALL", 0)
    monkeypatch.setattr(product_choice, "quickest", lambda ways: way if way in ways else min(ways))


@pytest.mark.parametrize("way", ["kernel", "blocks"])
def test_every_way_to_a_preview_that_a_measurement_may_choose_gives_the_same_logits(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, h = make_head(rescored=0), hidden_states(4)
    expected = head(h)
    take(way, monkeypatch)
    torch.testing.assert_close(head(h), expected, rtol=0.01, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wide_copy_gives_the_logits_of_all_eight_bits_whatever_the_setting(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, plain = make_head(bits=2, rescored=3).to(dtype), make_head(bits=8, rescored=0)
    h = hidden_states(4)
    take("copy", monkeypatch)
    found = head(h.to(dtype))
    assert head.products.ways == {(4, str(dtype).removeprefix("torch.")): "copy"}
    assert head.products.wide_copy_nbytes == VOCAB * HIDDEN * dtype.itemsize
    tolerance = 1e-4 if dtype == torch.float32 else 0.02 * float(plain(h).abs().max())
    torch.testing.assert_close(found.float(), plain(h), rtol=0, atol=tolerance)


def test_more_than_64_positions_are_previewed_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    head, h = make_head(rescored=3), hidden_states(65)
    expected = head(h)
    take("copy", monkeypatch)
    torch.testing.assert_close(head(h), expected)


def test_a_copy_that_is_forbidden_is_given_back_and_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    head, h = make_head(), hidden_states(4)
    preview = head(h)
    take("copy", monkeypatch)
    head(h)
    assert head.products.wide_copy_nbytes > 0
    head.choice.allow_copy(False)
    assert head.products.wide_copy_nbytes == 0
    torch.testing.assert_close(head(h), preview, rtol=0.01, atol=0.02 * float(preview.abs().max()))
    assert head.products.wide_copy_nbytes == 0
    assert set(head.products.ways.values()) == {"blocks"}


def test_a_wide_copy_of_planes_that_change_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    head, h = make_head(), hidden_states(2)
    take("copy", monkeypatch)
    before = head(h)
    head.high.fill_(0x88)
    assert not torch.allclose(head(h), before)


def test_a_way_is_measured_once_for_sizes_that_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_choice, "SMALL", 0)
    measured = []

    def count(ways: product_choice.Ways) -> str:
        measured.append(sorted(ways))
        return min(ways)

    monkeypatch.setattr(product_choice, "quickest", count)
    head = make_head()
    for positions in (3, 4, 3):
        head(hidden_states(positions))
    assert len(measured) == 1
    head(hidden_states(5))
    assert len(measured) == 2
    head.read(bits=2, rescored=3, columns=HIDDEN)
    head(hidden_states(3))
    assert len(measured) == 3


def test_what_is_measured_is_a_smaller_head_that_rescores_as_great_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane_products, "rows_measured", lambda *size: 128)
    head, h = make_head(rescored=30), hidden_states(2)
    asked: list[int] = []
    monkeypatch.setattr(
        plane_products, "rescore", lambda x, part, logits, most, bias: asked.extend([*logits.shape, most])
    )
    ways = head.reader._ways(head, h, head.reading)
    ways["blocks"]()
    assert asked == [2, 128, 13]  # of 301 rows 30
    assert set(ways) == {"blocks", "copy"} | ({"kernel"} if product_choice.has_int4_kernel() else set())
    for way in ways.values():
        way()


def test_planes_that_change_are_arranged_anew() -> None:
    head = make_head(rescored=0).bfloat16()
    h = hidden_states(2).bfloat16()
    before = head(h)
    head.high.fill_(0x88)
    assert not torch.equal(head(h), before)


def test_an_embedding_turns_one_whole_row_back() -> None:
    table = make_embedding(scale=2.0)
    ids = torch.tensor([[0, 7], [300, 7]])
    found = table(ids)
    assert found.shape == (2, 2, HIDDEN)
    expected = 2 * random_matrix()[ids]
    assert float((found - expected).norm() / expected.norm()) < 0.01
    torch.testing.assert_close(found, 2 * table.dense_weight()[ids], rtol=1e-5, atol=1e-5)


def test_a_tied_head_reads_the_very_planes_of_its_table_and_owns_none() -> None:
    table = make_embedding()
    tied, own, h = make_head(table=table), make_head(), hidden_states()
    assert torch.equal(tied(h), own(h))
    assert set(tied.state_dict()) == {"bias"}
    table.whole.zero_()
    assert not torch.equal(tied(h), own(h))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compilation_captures_the_head_and_its_table_without_a_break(dtype: torch.dtype) -> None:
    table = make_embedding().to(dtype)
    head = make_head(table=table).to(dtype)
    head.prepare()
    model = torch.nn.Sequential(table, head)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        expected = model(ids)
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(ids), expected)
