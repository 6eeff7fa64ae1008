"""How large the pieces are in which positions x vocabulary is walked: never the whole matrix."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tiles:
    """rows: positions at a time; columns: vocabulary entries at a time. Working memory is a few rows x columns."""

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
    """On a CPU a tile should stay in the cache; a GPU wants large products."""
    return Tiles(512, 1024) if device.type == "cpu" else Tiles(4096, 8192, 1 << 28)
