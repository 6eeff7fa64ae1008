"""Hidden states on disk, keyed by content: a second job on the same model and corpus skips the backbone.

One folder a key: meta.json, one raw file of hidden states and one of model inputs for each part, and what was
computed from them. A folder appears by rename, whole or not at all. Reading uses plain reads, not a memory map, so
that resident memory stays the same whatever the number of positions.
"""

import fcntl
import json
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.compression.states.hidden_states import HiddenStatesOf, stopped_at_lm_head
from service.compression.states.offloading import map_windows, windows_at_once
from service.compression.text.examples import Examples

DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """h at every predicted position, in the order of the windows. What is predicted, and why, is the objective's."""

    file: Path
    dtype: torch.dtype
    hidden_size: int
    examples: Examples

    @property
    def windows(self) -> Tensor:
        """(windows, length) int64, as the model reads them."""
        return self.examples.inputs["input_ids"]

    @cached_property
    def lengths(self) -> Tensor:
        """(windows,) int64 predicted positions of each window."""
        return self.examples.lengths

    @cached_property
    def targets(self) -> Tensor:
        """(positions,) the token that each position predicts."""
        return self.examples.targets

    @property
    def positions(self) -> int:
        return self.targets.numel()

    @property
    def nbytes(self) -> int:
        return self.positions * self.hidden_size * self.dtype.itemsize

    def first(self, rows: int) -> Tensor:
        """(<= rows, hidden), the first positions."""
        return next(iter(self.blocks(rows)))

    @property
    def spread(self) -> "Spread | None":
        """A way to sweep the states where they are, if they are not in `file`."""
        return None

    def of_windows(self, windows: int) -> Iterator[Tensor]:
        """(positions, hidden), those of so many windows at a time; windows may differ in length."""
        counts = [int(part.sum()) for part in self.lengths.split(windows)]
        pending, blocks = torch.empty(0, self.hidden_size, dtype=self.dtype), self.blocks(max([1, *counts]))
        for count in counts:
            while pending.shape[0] < count:
                pending = torch.cat([pending, next(blocks)])
            yield pending[:count]
            pending = pending[count:]

    def blocks(self, rows: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
        """(<= rows, hidden) at a time, in the model's dtype."""
        size = self.hidden_size * self.dtype.itemsize
        buffer = bytearray(rows * size)
        with self.file.open("rb", buffering=0) as file:
            for start in range(0, self.positions, rows):
                count = min(rows, self.positions - start)
                view = memoryview(buffer)[: count * size]
                if file.readinto(view) != len(view):
                    raise OSError(f"{self.file} is shorter than its index says")
                block = torch.frombuffer(buffer, dtype=self.dtype, count=count * self.hidden_size)
                yield block.view(count, self.hidden_size).to(device, copy=True)


# (head, sizes, top, progress) -> blocks of positions; see sweep.py, which this module does not import.
Spread: TypeAlias = Callable[[Any, list[int], int, Callable[[float], None]], Iterator[Any]]


class HiddenCache:
    """Cached hidden states of all passes, in folders below one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        return self.root / key

    def is_whole(self, key: str) -> bool:
        """Whether the entry is there and its files are as long as its index says."""
        try:
            parts = [self.open(key, part) for part in ("calibration", "evaluation")]
            return all(part.file.stat().st_size == part.nbytes for part in parts)
        except (OSError, ValueError, KeyError, SafetensorError):
            return False

    def hold(self, key: str) -> bool:
        """Keep an entry on the disk for as long as this object lives; False if there is none. Counts as a use of it."""
        try:
            held = os.open(self.folder(key), os.O_RDONLY)
            weakref.finalize(self, os.close, held)
            fcntl.flock(held, fcntl.LOCK_SH)
            os.utime(self.folder(key))
            return os.path.samestat(os.fstat(held), self.folder(key).stat())  # else it was removed just now
        except OSError:
            return False

    def read_meta(self, key: str) -> dict[str, Any]:
        meta = json.loads((self.folder(key) / "meta.json").read_text(encoding="utf-8"))
        assert isinstance(meta, dict)
        return meta

    def open(self, key: str, part: str) -> HiddenStates:
        """`part` is "calibration" or "evaluation"."""
        meta, folder = self.read_meta(key), self.folder(key)
        inputs = load_file(folder / f"{part}.examples.safetensors")
        examples = Examples(labels=inputs.pop("labels"), inputs=inputs)
        return HiddenStates(folder / f"{part}.bin", DTYPES[meta["dtype"]], meta["hidden_size"], examples)

    def fill(
        self,
        key: str,
        model: Any,
        parts: dict[str, Examples],
        meta: dict[str, Any],
        progress: Callable[[float], None],
    ) -> None:
        """Run the backbone over every window of `parts` and publish the folder by rename."""
        self.root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.root))
        try:
            total, done = sum(map(len, parts.values())), 0
            for part, examples in parts.items():
                tensors = examples.inputs | {"labels": examples.labels}
                path = staging / f"{part}.examples.safetensors"
                save_file({name: rows.contiguous() for name, rows in tensors.items()}, path)
                at_once = windows_at_once(model, examples.labels.shape[1])
                with (staging / f"{part}.bin").open("wb") as file, stopped_at_lm_head(model) as hidden_states:

                    def predicting(block: Examples, run: HiddenStatesOf = hidden_states) -> Tensor:
                        return block.predicting(run(block.inputs)).cpu()

                    for hidden in map_windows(predicting, examples.split(at_once), model):
                        file.write(hidden.view(torch.uint8).numpy().data)
                        done += at_once
                        progress(min(done / total, 1.0))
            (staging / "meta.json").write_text(json.dumps(meta, sort_keys=True), encoding="utf-8")
            self._rename_into_place(staging, key)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def load_tensors(self, key: str, name: str) -> dict[str, Tensor] | None:
        """Tensors that `save_tensors` kept under this name, if any."""
        try:
            return load_file(self.folder(key) / f"{name}.safetensors")
        except (OSError, SafetensorError):
            return None

    def save_tensors(self, key: str, name: str, tensors: dict[str, Tensor]) -> None:
        path = self.folder(key) / f"{name}.safetensors"
        temporary = path.with_name(f".{name}-{secrets.token_hex(8)}")
        save_file({field: tensor.contiguous().cpu() for field, tensor in tensors.items()}, temporary)
        os.replace(temporary, path)

    def _rename_into_place(self, staging: Path, key: str) -> None:
        if self.is_whole(key):
            return  # a twin job was quicker
        if self.folder(key).exists():  # damaged: out of the way first, since only an empty folder can be replaced
            os.rename(self.folder(key), staging / "replaced")
            shutil.rmtree(staging / "replaced")
        os.rename(staging, self.folder(key))
