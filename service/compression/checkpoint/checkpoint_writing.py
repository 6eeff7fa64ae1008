"""Write a planned checkpoint: new head tensors, everything else copied byte for byte without passing through torch.

Peak memory is the head's factors plus a few megabytes of buffers, whatever the model's size. Each file is hashed while
it is written. Measures nothing, loads no model.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headroom.loading.head import REMOVED_NAME
from service.compression.checkpoint.checkpoint import Plan
from service.compression.checkpoint.hashed_writing import PIECE_BYTES, HashedWriter
from service.foundation.hashed_files import HashedFile
from service.models.model_files import ModelInspection, TensorEntry
from service.models.side_files import is_side_file

DTYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
}

# Shards that hold nothing but copied tensors, by what they hold: where each was written, and its hash.
Bodies = dict[tuple[tuple[str, TensorEntry], ...], tuple[Path, HashedFile]]


def write_checkpoint(
    plan: Plan,
    source: ModelInspection,
    folder: Path,
    max_shard_bytes: int,
    progress: Callable[[float], None],
    bodies: Bodies | None = None,
) -> dict[str, HashedFile]:
    """Fill an empty staging folder: shards, index, config, tokenizer and generation files. fsync is the store's.

    bodies: of checkpoints of the same source that were written before, and after this one its own. New tensors are then
    kept apart from copied ones, and a shard of copied ones that is there already is linked, not written again.
    Gives the hashes of the large files, by name.
    """
    shards = list(_shards(plan.tensors, max_shard_bytes, apart=bodies is not None))
    names = _shard_names(len(shards))
    written, total = 0, max(plan.nbytes, 1)

    def on_bytes(count: int) -> None:
        nonlocal written
        written += count
        progress(written / total)

    hashes = {}
    with ExitStack() as stack:
        files = {name: stack.enter_context((source.path / name).open("rb", buffering=0)) for name in source.files}
        for name, shard in zip(names, shards, strict=True):
            copied = tuple((tensor, item) for tensor, item in shard.items() if isinstance(item, TensorEntry))
            if bodies is not None and len(copied) == len(shard) and copied in bodies:
                there, known = bodies[copied]
                with suppress(OSError):  # a file system without links has it twice
                    os.link(there, folder / name)
                    hashes[name] = known
                    on_bytes(sum(item.nbytes for _, item in copied))
                    continue
            hashes[name] = _write_shard(folder / name, shard, files, on_bytes)
            if bodies is not None and len(copied) == len(shard):
                bodies[copied] = folder / name, hashes[name]
        if plan.removed:
            hashes[REMOVED_NAME] = _write_shard(folder / REMOVED_NAME, plan.removed, files, lambda count: None)
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": plan.nbytes}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(folder / "model.safetensors.index.json", index)
    _copy_side_files(source, folder)
    _write_json(folder / "config.json", plan.config)
    return hashes


def _shards(
    tensors: dict[str, Tensor | TensorEntry], max_bytes: int, *, apart: bool
) -> Iterable[dict[str, Tensor | TensorEntry]]:
    """In file order. apart: none holds both new and copied tensors."""
    shard: dict[str, Tensor | TensorEntry] = {}
    size, copies = 0, False
    for name, item in tensors.items():
        is_copy = isinstance(item, TensorEntry)
        if shard and (size + item.nbytes > max_bytes or (apart and is_copy is not copies)):
            yield shard
            shard, size = {}, 0
        shard[name] = item
        size, copies = size + item.nbytes, is_copy
    yield shard


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{index:05d}-of-{count:05d}.safetensors" for index in range(1, count + 1)]


def _write_shard(
    path: Path,
    shard: dict[str, Tensor | TensorEntry],
    files: Mapping[str, RawIOBase],
    on_bytes: Callable[[int], None],
) -> HashedFile:
    """Layout of safetensors: 8 bytes header length, JSON header padded to 8, data. Widest dtypes first: all aligned."""
    ordered = sorted(shard.items(), key=lambda pair: (-_item_bytes(pair[1]), pair[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, item in ordered:
        header[name] = {
            "dtype": _dtype_name(item),
            "shape": list(item.shape),
            "data_offsets": [offset, offset + item.nbytes],
        }
        offset += item.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with HashedWriter(path) as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, item in ordered:
            if isinstance(item, TensorEntry):
                _copy_bytes(files[item.file], item, out, on_bytes)
            else:
                _write_tensor(item, out, on_bytes)
    return out.hashed()


def _copy_bytes(source: RawIOBase, entry: TensorEntry, out: HashedWriter, on_bytes: Callable[[int], None]) -> None:
    source.seek(entry.start)
    left = entry.nbytes
    while left:
        buffer = out.buffer()
        count = source.readinto(buffer[: min(left, len(buffer))])
        if not count:
            raise OSError(f"{entry.file} ended early while tensor {entry.name!r} was copied")
        out.write(buffer[:count])
        left -= count
        on_bytes(count)


def _write_tensor(tensor: Tensor, out: HashedWriter, on_bytes: Callable[[int], None]) -> None:
    flat = tensor.contiguous().flatten()
    if flat.numel() == 1:  # counts as contiguous whatever its stride, and bytes want a stride of 1
        flat = flat.clone(memory_format=torch.contiguous_format)
    data = flat.view(torch.uint8).numpy().data
    for start in range(0, len(data), PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        out.write(piece)
        on_bytes(len(piece))


def _copy_side_files(source: ModelInspection, folder: Path) -> None:
    """What the tokenizer reads, generation settings, templates. Not the index, nor what a publisher wrote about it."""
    skipped = {"config.json", "model.safetensors.index.json", "headroom.json", "report.json"}
    names = {path.name for path in source.path.iterdir() if is_side_file(path.name) and path.is_file()}
    for name in sorted((names | set(source.tokenizer_files)) - skipped):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.path / name, folder / name)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _item_bytes(item: Tensor | TensorEntry) -> int:
    elements = max(1, torch.Size(item.shape).numel())
    return item.nbytes // elements


def _dtype_name(item: Tensor | TensorEntry) -> str:
    return item.dtype if isinstance(item, TensorEntry) else DTYPE_NAMES[item.dtype]
