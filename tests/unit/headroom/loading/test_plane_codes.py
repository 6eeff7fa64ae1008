"""Codes in planes: what each part of them stands for, by hand and against slow loops."""

import pytest
import torch

from headroom.loading import plane_codes


def random_matrix(rows: int = 7, columns: int = 75, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_a_row_by_hand() -> None:
    row = torch.tensor([[127.5, -127.5, 0.4, -0.4, 100.6]])
    codes, scales = plane_codes.round_to_codes(row)
    assert scales.tolist() == [[1.0]]
    assert codes.tolist() == [[255, 0, 128, 127, 228]]
    assert plane_codes.values(codes, scales).tolist() == [[127.5, -127.5, 0.5, -0.5, 100.5]]
    # 228 = 14 * 16 + 4: the centre of 224..239 is 231.5
    preview = plane_codes.preview_values(codes, scales, bits=4, whole_columns=2)
    assert preview.tolist() == [[127.5, -127.5, 8.0, -8.0, 104.0]]


def test_every_value_is_within_half_a_step_of_its_entry() -> None:
    matrix = random_matrix()
    codes, scales = plane_codes.round_to_codes(matrix)
    step = scales.float().repeat_interleave(plane_codes.GROUP, dim=1)[:, : matrix.shape[1]]
    error = (plane_codes.values(codes, scales) - matrix).abs()
    # Scales are rounded to eight bits: the largest entry of a group may be off by half a step more.
    assert bool((error <= 1.01 * step).all())
    assert float((error <= 0.5001 * step).float().mean()) > 0.97


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_a_preview_value_is_the_mean_over_the_codes_that_share_its_bits(bits: int) -> None:
    codes = torch.arange(256, dtype=torch.uint8)[None]
    scales = torch.full((1, 8), 0.5, dtype=torch.bfloat16)
    preview = plane_codes.preview_values(codes, scales, bits=bits, whole_columns=32)[0]
    for u in range(256):
        sharing = [v for v in range(256) if v >> (8 - bits) == u >> (8 - bits)]
        expected = (sum(sharing) / len(sharing) if u >= 32 else u) - 127.5
        assert preview[u] == expected * 0.5


def test_all_bits_of_a_preview_are_the_values() -> None:
    codes, scales = plane_codes.round_to_codes(random_matrix())
    preview = plane_codes.preview_values(codes, scales, bits=8, whole_columns=32)
    assert torch.equal(preview, plane_codes.values(codes, scales))


@pytest.mark.parametrize(("columns", "whole"), [(75, 32), (64, 32), (33, 32), (40, 0), (32, 32)])
def test_planes_put_together_are_the_codes(columns: int, whole: int) -> None:
    codes = torch.randint(0, 256, (9, columns), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    planes = plane_codes.split(codes, whole)
    rest = columns - whole
    assert planes.whole.shape == (9, whole)
    assert planes.high.shape == planes.low.shape == (9, -(-rest // 2))
    assert torch.equal(plane_codes.join(planes, columns), codes)
    assert torch.equal(plane_codes.unpack_nibbles(planes.high, rest), codes[:, whole:] >> 4)


def test_a_pair_of_columns_shares_a_byte_with_the_even_one_in_its_low_half() -> None:
    assert plane_codes.pack_nibbles(torch.tensor([[1, 2, 3]], dtype=torch.uint8)).tolist() == [[0x21, 0x03]]


def test_a_group_of_zeros_stays_zero() -> None:
    matrix = random_matrix(2, 64)
    matrix[0, 32:] = 0
    codes, scales = plane_codes.round_to_codes(matrix)
    assert scales[0, 1] == 0
    assert plane_codes.values(codes, scales)[0, 32:].tolist() == [0.0] * 32
    assert bool(torch.isfinite(plane_codes.preview_values(codes, scales, bits=2, whole_columns=0)).all())


def test_codes_for_given_scales_stay_inside_a_byte() -> None:
    matrix = torch.tensor([[1000.0, -1000.0, 0.1]])
    codes = plane_codes.codes_for(matrix, torch.ones(1, 1, dtype=torch.bfloat16))
    assert codes.tolist() == [[255, 0, 128]]
