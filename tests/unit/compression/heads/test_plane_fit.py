"""Heads in bit planes: the fit against its definition, written out slowly."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headroom.contract.compress import Method
from headroom.loading import plane_codes
from service.compression.heads.basis import build_basis
from service.compression.heads.plane_basis import plane_basis
from service.compression.heads.plane_fit import FittedPlanes, fit_planes
from service.compression.states.lm_head import LmHead, Transform
from service.compression.states.statistics import Statistics
from service.foundation.errors import InvalidSelection

VOCAB, HIDDEN = 301, 75  # odd, and no multiple of a group


def make_statistics(hidden: int = HIDDEN, vocab: int = VOCAB) -> tuple[Statistics, Tensor]:
    """Of hidden states (400, hidden) with a mean, correlated, and one void direction."""
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(hidden, hidden, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, hidden)
    h = torch.randn(400, hidden, generator=generator, dtype=torch.float64) @ mixing.T + 0.2
    h = h - h.mean(1, keepdim=True)
    p = torch.randn(400, vocab, generator=generator, dtype=torch.float64).mul(2).softmax(1)
    return Statistics(torch.tensor(400), p.sum(0), h.sum(0), h.T @ h, torch.empty(0)), h


def make_head(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> LmHead:
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype)
    own = torch.randn(VOCAB, generator=generator).to(dtype) if bias else None
    return LmHead(weight, own, Transform(), "lm_head", "embed", False, 1.0)


@pytest.fixture(scope="module")
def fitted() -> FittedPlanes:
    return fit_planes(make_head(), make_statistics()[0], seed=0, whole_columns=32)


def test_planes_put_together_are_the_codes_and_these_are_within_half_a_step_of_the_columns(
    fitted: FittedPlanes,
) -> None:
    planes = fitted.split()
    assert planes.whole.shape == (VOCAB, 32)
    assert planes.high.shape == planes.low.shape == (VOCAB, 22)
    assert torch.equal(plane_codes.join(planes, HIDDEN), fitted.codes)
    columns = make_head().weight.double() @ torch.linalg.inv(fitted.basis.double())
    step = fitted.scales.double().repeat_interleave(plane_codes.GROUP, 1)[:, :HIDDEN]
    # A scale that was rounded down leaves its largest entry beyond the last code.
    assert ((fitted.whole_rows(slice(None)).double() - columns).abs() <= (0.5 + 127.5 * 2**-8) * step).all()
    assert ((fitted.whole_rows(slice(None)).double() - columns).abs() <= 0.501 * step).double().mean() > 0.98


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_a_preview_row_is_the_middle_of_the_codes_that_share_its_upper_bits(fitted: FittedPlanes, bits: int) -> None:
    preview, step = fitted.preview_rows(slice(0, 3), bits), 2 ** (8 - bits)
    for row in range(3):
        for column in range(HIDDEN):
            code = int(fitted.codes[row, column])
            if column >= 32:
                sharing = [other for other in range(256) if other // step == code // step]
                code_read = sum(sharing) / len(sharing)
            else:
                code_read = code
            wanted = (code_read - 127.5) * float(fitted.scales[row, column // 32])
            assert float(preview[row, column]) == pytest.approx(wanted, rel=1e-6)


def test_a_preview_of_all_bits_is_the_whole_row(fitted: FittedPlanes) -> None:
    assert torch.equal(fitted.preview_rows(slice(None), 8), fitted.whole_rows(slice(None)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_turned_back_by_the_stored_basis_are_rows_of_the_table(dtype: torch.dtype) -> None:
    head = make_head(dtype, bias=False)
    planes = fit_planes(head, make_statistics()[0], seed=0, whole_columns=32)
    assert planes.basis.dtype == dtype
    back = planes.whole_rows(slice(None)) @ planes.basis.float()
    error = (back - head.weight.float()).norm(dim=1) / head.weight.float().norm(dim=1)
    assert float(error.median()) < 0.02


def test_the_first_band_spans_the_most_important_directions_of_the_probability_basis() -> None:
    statistics, _ = make_statistics()
    weight = make_head().weight
    banded = plane_basis(weight, statistics, tau=0.5, whole_columns=32, seed=0, dtype=torch.float64)
    plain = build_basis(Method.PROBABILITY, weight, statistics, 0, tau=0.5)
    assert plain.synthesis is not None
    ours = torch.linalg.qr(banded.synthesis[:, :32]).Q
    theirs = torch.linalg.qr(plain.synthesis[:, :32]).Q
    assert torch.allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-6)
    assert torch.allclose(banded.analysis @ banded.synthesis, torch.eye(HIDDEN, dtype=torch.float64), atol=1e-9)


def test_weights_of_power_0_count_every_token_alike_and_of_power_1_as_the_method_always_did() -> None:
    statistics, _ = make_statistics()
    alike = replace(statistics, probability_sum=torch.ones(VOCAB, dtype=torch.float64))
    weight = make_head().weight
    for tau, other in ((0.0, alike), (1.0, statistics)):
        tempered = build_basis(Method.PROBABILITY, weight, statistics, 0, tau=tau)
        assert torch.allclose(tempered.importance, build_basis(Method.PROBABILITY, weight, other, 0).importance)


def test_the_basis_is_well_conditioned_though_a_direction_of_the_hidden_states_is_void(fitted: FittedPlanes) -> None:
    values = torch.linalg.svdvals(fitted.basis.double())
    assert float(values[0] / values[-1]) < 1e3


def test_the_same_seed_gives_the_same_planes_and_another_one_others(fitted: FittedPlanes) -> None:
    head, (statistics, _) = make_head(), make_statistics()
    assert torch.equal(fit_planes(head, statistics, seed=0, whole_columns=32).codes, fitted.codes)
    assert not torch.equal(fit_planes(head, statistics, seed=1, whole_columns=32).codes, fitted.codes)


def test_a_head_of_fewer_columns_than_the_first_band_is_read_whole() -> None:
    statistics, _ = make_statistics(20)
    head = replace(make_head(bias=False), weight=make_head().weight[:, :20].contiguous())
    planes = fit_planes(head, statistics, seed=0, whole_columns=64)
    assert planes.split().high.shape == (VOCAB, 0)
    assert torch.equal(planes.preview_rows(slice(None), 2), planes.whole_rows(slice(None)))


@pytest.mark.parametrize("whole_columns", [-32, 1, 33])
def test_whole_columns_that_split_a_group_are_refused(whole_columns: int) -> None:
    with pytest.raises(InvalidSelection, match="no multiple of 32"):
        fit_planes(make_head(), make_statistics()[0], seed=0, whole_columns=whole_columns)


def test_bytes_are_those_of_the_tensors(fitted: FittedPlanes) -> None:
    planes = fitted.split()
    assert fitted.bias is not None
    beside = fitted.scales.nbytes + fitted.basis.nbytes + fitted.bias.nbytes
    assert fitted.stored_nbytes == planes.whole.nbytes + planes.high.nbytes + planes.low.nbytes + beside
    preview = VOCAB * (32 * 8 + 43 * 4) // 8
    assert fitted.read_nbytes(4, 0) == preview + beside
    assert fitted.read_nbytes(4, 10) == preview + beside + 10 * (HIDDEN + 3 * 2)
    assert fitted.read_nbytes(8, 10) == VOCAB * HIDDEN + beside
