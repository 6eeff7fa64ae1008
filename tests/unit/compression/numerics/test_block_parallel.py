"""Blocks side by side: in order, bounded, and the number of operator threads is put back whatever happens."""

import threading
from collections.abc import Iterator

import pytest
import torch

from service.compression.numerics.block_parallel import map_blocks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_although_two_blocks_run_at_a_time() -> None:
    both = threading.Barrier(2, timeout=20)

    def square(block: int) -> int:
        both.wait()
        return block**2

    assert list(map_blocks(square, range(8), CPU)) == [block**2 for block in range(8)]
    assert torch.get_num_threads() == 2


def test_no_more_blocks_are_taken_than_are_under_way() -> None:
    taken: list[int] = []

    def blocks() -> Iterator[int]:
        for block in range(100):
            taken.append(block)
            yield block

    results = map_blocks(lambda block: block, blocks(), CPU)
    assert next(results) == 0
    assert len(taken) == 3
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert torch.get_num_threads() == 2


def test_an_error_in_a_block_surfaces_and_the_threads_are_put_back() -> None:
    def fail(block: int) -> int:
        if block == 2:
            raise ValueError("of block 2")
        return block

    with pytest.raises(ValueError, match="of block 2"):
        list(map_blocks(fail, range(50), CPU))
    assert torch.get_num_threads() == 2


def test_operators_inside_are_single_threaded_and_track_no_gradients() -> None:
    seen = list(map_blocks(lambda block: (torch.get_num_threads(), torch.is_inference_mode_enabled()), [0], CPU))
    assert seen == [(1, True)]
