"""The windows of all shards of a job, and their hidden states: from the cache of this machine, or from the model."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from headroom.contract.job_recipe import JobRecipe
from service.compression.states.hidden_cache import HiddenCache, HiddenStates
from service.compression.states.lm_head import LmHead
from service.compression.states.source import load_backbone, read_head, stored_names
from service.compression.text.examples import Examples
from service.models.model_files import ModelInspection
from service.ports.engine import EngineTask
from service.records.shards import AskedWindows, cache_name, ranges, windows_number

PARTS = ("calibration", "evaluation")


class ShardReader:
    """The windows of all shards, the head, and the hidden states of any shard."""

    def __init__(
        self,
        task: EngineTask[JobRecipe],
        inspection: ModelInspection,
        file: Path,
        device: torch.device,
        model: Any = None,
    ) -> None:
        self.device = device
        self.meta: dict[str, Any]
        self.parts, self.meta = _read_windows(file)
        self.head: LmHead = read_head(inspection, self.meta["head"], stored_names(self.meta), device)
        self._task = task
        self._inspection = inspection
        self._model = model
        self._cache = HiddenCache(task.cache_dir / "hidden_states")
        self._held: set[str] = set()

    def hidden(
        self,
        asked: AskedWindows,
        number: int,
        part: str,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> HiddenStates:
        """The hidden states of a shard. Runs the backbone over both of its parts if this machine's cache lacks them."""
        name = cache_name(asked, number)
        if not self.has(asked, number):
            shard = {part: self.examples(asked, number, part) for part in self.parts}
            self._cache.fill(name, self._loaded(), shard, self.meta, progress)
            self._cache.hold(name)
            self._held.add(name)
        progress(1.0)
        return self._cache.open(name, part)

    def has(self, asked: AskedWindows, number: int) -> bool:
        """Whether the hidden states of a shard are in the cache of this machine; they stay there from now on."""
        name = cache_name(asked, number)
        if name not in self._held and self._cache.hold(name) and self._cache.is_whole(name):
            self._held.add(name)
        return name in self._held

    def examples(self, asked: AskedWindows, number: int, part: str) -> Examples:
        """The windows of a shard."""
        examples = self.parts[part]
        return examples.part(ranges(len(examples), asked.shards)[windows_number(asked, number)])

    def forget_model(self) -> None:
        """Frees its memory; it is loaded again if need be."""
        if self._model is not None:
            self._model = None
            gc.collect()  # a model holds itself in circles

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = load_backbone(self._task, self._inspection, self.meta["auto_class"], self.device)
        return self._model


def write_windows(path: Path, parts: dict[str, Examples], meta: dict[str, Any]) -> None:
    """What a ShardReader reads."""
    tensors: dict[str, Tensor] = {}
    for part, examples in parts.items():
        named = examples.inputs | {"labels": examples.labels}
        tensors |= {f"{part}.{name}": rows.contiguous() for name, rows in named.items()}
    save_file(tensors, path, {"meta": json.dumps(meta)})


def _read_windows(path: Path) -> tuple[dict[str, Examples], dict[str, Any]]:
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, rows in load_file(path).items():
        part, _, argument = name.partition(".")
        parts[part][argument] = rows
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["meta"])
    return {part: Examples(labels=named.pop("labels"), inputs=named) for part, named in parts.items()}, meta
