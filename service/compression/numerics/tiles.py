"""How large the pieces are in which positions x vocabulary is walked: never the whole matrix."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

BLOCK_ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 28}  # positions x vocabulary that are held at a time: 64 MB, 1 GB
MOST_POSITIONS = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class Tiles:
    """Sizes of a tile: rows are positions, columns vocabulary entries. Working memory is a few rows x columns."""

    rows: int
    columns: int
    elements: int = 1 << 24  # of all tiles at a time, float32

    def shared_by(self, count: int) -> "Tiles":
        """Narrower tiles, where `count` of them at a time would be more than `elements`."""
        return Tiles(self.rows, max(64, min(self.columns, self.elements // (self.rows * count))), self.elements)

    def vocabulary(self, vocab_size: int) -> Iterator[slice]:
        for start in range(0, vocab_size, self.columns):
            yield slice(start, min(start + self.columns, vocab_size))


def tiles_for(device: torch.device) -> Tiles:
    """Tiles for a device: on a CPU one should stay in the cache; a GPU wants large products."""
    return Tiles(512, 1024) if device.type == "cpu" else Tiles(4096, 8192, 1 << 28)


def rows_at_once(vocab_size: int, device: torch.device) -> int:
    """Positions of a block of which all logits are held."""
    elements, most = (by.get(device.type, by["cuda"]) for by in (BLOCK_ELEMENTS, MOST_POSITIONS))
    return max(1, min(most, elements // vocab_size))
