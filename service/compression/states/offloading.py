"""How much of a model is held in memory. What does not fit is read from its files block by block, at every pass.

A block is an element of a ModuleList, as the layers of every transformer are; embeddings, norms and the head stay.
transformers and accelerate read a matrix at a time, straight from the safetensors files, or from a copy in `folder`
where loading changes a weight. Chooses no device and loads nothing.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from headroom.contract.job_recipe import JobRecipe
from service.compression.numerics.block_parallel import map_blocks
from service.models.memory_needs import working_bytes
from service.models.model_files import ModelInspection
from service.ports.engine import OFFLOADED_NAME, EngineTask

# Positions of one pass: the weights of an offloaded model are read once for all of them.
POSITIONS_AT_ONCE = {"cpu": 512, "cuda": 16_384}
POSITIONS_OFFLOADED = {"cpu": 4096, "cuda": 16_384}

Block = TypeVar("Block")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Room:
    """Where a model runs, and the bytes of its blocks that may be held there; None: all."""

    device: torch.device
    block_bytes: int | None = None
    folder: Path | None = None  # for copies of weights that loading changes

    @contextmanager
    def placing(self, skeleton: nn.Module) -> Iterator[dict[str, Any]]:
        """Arguments for from_pretrained. skeleton: the model on the meta device, in its stored dtype."""
        if self.block_bytes is None:
            yield {}
            return
        placed = device_map(skeleton, str(self.device), self.block_bytes)
        with (
            warnings.catch_warnings()
        ):  # accelerate wonders about tensors outside of any part; transformers places them
            warnings.filterwarnings("ignore", "The following device_map keys do not match any submodules", UserWarning)
            yield {"device_map": placed, "offload_folder": self.folder}


def room_of(task: EngineTask[JobRecipe], model: ModelInspection, device: torch.device, models: int = 1) -> Room:
    """Room for `models` at a time: for all of `model` where it fits beside the analysis of its head."""
    if task.memory_bytes is None:
        return Room(device)
    left = task.memory_bytes // models - working_bytes(model.vocab_size or 0, model.hidden_size or 0)
    if model.nbytes <= left:
        return Room(device)
    return Room(device, max(left, 0), task.staging / OFFLOADED_NAME)


def device_map(model: nn.Module, device: str, block_bytes: int) -> dict[str, str]:
    """Where each part of a model goes: its first blocks to `device` while they fit, the others to "disk"."""
    left = block_bytes

    def place(module: nn.Module, name: str) -> Iterator[tuple[str, str]]:
        nonlocal left
        if isinstance(module, nn.ModuleList):
            for index, block in enumerate(module):
                left -= sum(tensor.nbytes for tensor in block.parameters())
                yield f"{name}.{index}", device if left >= 0 else "disk"
        elif any(isinstance(part, nn.ModuleList) for part in module.modules()):
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            yield from ((f"{name}.{key}".lstrip("."), device) for key, _ in own)
            for key, part in module.named_children():
                yield from place(part, f"{name}.{key}".lstrip("."))
        else:
            yield name, device

    return dict(place(model, ""))


def is_offloaded(model: Any) -> bool:
    return "disk" in getattr(model, "hf_device_map", {}).values()


def windows_at_once(model: Any, window: int) -> int:
    """How many windows a pass takes: on a CPU one thread's work; a GPU, or reading weights for it, wants more."""
    positions = POSITIONS_OFFLOADED if is_offloaded(model) else POSITIONS_AT_ONCE
    return max(1, positions.get(model.device.type, positions["cuda"]) // window)


def map_windows(work: Callable[[Block], Result], blocks: Iterable[Block], model: Any) -> Iterator[Result]:
    """The results of blocks, as map_blocks; an offloaded model gets one at a time, as its weights come and go."""
    if not is_offloaded(model):
        yield from map_blocks(work, blocks, model.device)
        return
    for block in blocks:
        with torch.inference_mode():
            yield work(block)
