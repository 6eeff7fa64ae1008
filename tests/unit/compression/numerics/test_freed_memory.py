"""Small pieces that were freed are no longer resident."""

import sys

import psutil
import pytest

from service.compression.numerics.freed_memory import return_freed_memory

PIECE, PIECES = 50_000, 2_000  # small enough that the C library keeps them


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have no such call")
def test_freed_pieces_between_used_ones_go_back_to_the_system() -> None:
    process = psutil.Process()
    pieces = [b"x" * PIECE for _ in range(PIECES)]
    used = pieces[::10]
    del pieces
    before = process.memory_info().rss
    return_freed_memory()
    assert before - process.memory_info().rss > PIECE * PIECES // 2
    assert all(piece == b"x" * PIECE for piece in used)
