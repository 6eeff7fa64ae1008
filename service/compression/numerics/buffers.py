"""Memory that blocks of positions use one after another: on fresh memory a large operator takes four times as long."""

import threading

import torch
from torch import Tensor


class Buffers(threading.local):
    """Tensors that are used again and again, by name; every thread has its own."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, device: torch.device) -> Tensor:
        """(rows, columns) float32 of any content; the same memory whenever the name is the same."""
        held = self._held.get(name)
        if held is None or held.numel() < rows * columns or held.device != device:
            self._held[name] = held = torch.empty(rows * columns, device=device)
        return held[: rows * columns].view(rows, columns)
