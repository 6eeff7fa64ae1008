"""Write the sliced checkpoint: new head tensors, everything else copied byte for byte without passing through torch.

Peak memory is the head's factors plus a few megabytes of buffers, whatever the model's size. Each file is hashed while
it is written. Measures nothing, loads no model.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headroom.loading.head import FORMAT_VERSION, REMOVED_NAME
from service.compression.checkpoint.hashed_writing import PIECE_BYTES, HashedWriter
from service.compression.heads.slicing import SlicedFactors
from service.compression.states.lm_head import LmHead, StoredNames
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


@dataclass(frozen=True, eq=False)
class Plan:
    """What the checkpoint will hold: new tensors, and where the others are copied from."""

    tensors: dict[str, Tensor | TensorEntry]  # in file order
    config: dict[str, Any]
    removed: dict[str, Tensor | TensorEntry]  # for a file that nothing loads by default; may be empty

    @property
    def nbytes(self) -> int:
        return sum(_nbytes(item) for item in self.tensors.values())


def plan_checkpoint(
    source: ModelInspection,
    head: LmHead,
    stored: StoredNames,
    factors: SlicedFactors,
    *,
    method: str,
    keep_tied: bool,
    keep_removed: bool,
    base_model_prefix: str,
    fingerprint: dict[str, Any] | None,
) -> Plan:
    """Decide every tensor and the config. keep_tied: a tied table is stored once (docs/checkpoint-format.md).

    keep_removed: what `headroom restore` needs beside the checkpoint goes into a file of its own.
    A rounded head has a table of its own: rounding the shared one would change the input of the model too.
    """
    tied = head.is_tied and keep_tied and factors.rounded is None
    new = _head_tensors(head.name, factors, tied=tied)
    if factors.bias is not None:  # BERT's head reads its bias from its parent, under the name that the file has
        new |= dict.fromkeys(stored.bias, factors.bias)
    if tied:
        new |= _embedding_tensors(head.embed_name, factors)
    config = plain_config(source, head, tied=tied)
    config["quantization_config"] = {
        "quant_method": "headroom",
        "version": FORMAT_VERSION,
        "method": method,
        "hidden_size": head.hidden_size,
        "vocab_size": head.vocab_size,
        "kept_columns": factors.kept,
        "permutation": factors.is_permutation,
        "tied": tied,
        "bias": factors.bias is not None,
        "lm_head": head.name,
        "embed_tokens": head.embed_name,
        "embed_scale": head.embed_scale if tied else 1.0,
        "source_bias": head.module_bias is not None,
        "source_tied": head.is_tied,
        "source_tie_word_embeddings": source.config.get("tie_word_embeddings"),
        "source_names": source_names(head, stored, base_model_prefix),
        "nested": factors.is_nested,
        "refined": factors.refined,
        "head_dtype": "source" if factors.rounded is None else factors.rounded.head_dtype,
        "mean_repaired": factors.is_nested and factors.mean_hidden is not None,
        "transform": head.transform.describe(),
        "fingerprint": fingerprint,
    }
    removed = _removed(head, source, stored, factors) if keep_removed else {}
    return Plan(new | copied_tensors(source, head, stored, base_model_prefix, tied=tied), config, removed)


def plan_dense(
    source: ModelInspection,
    head: LmHead,
    stored: StoredNames,
    weight: Tensor,
    bias: Tensor | None,
    base_model_prefix: str,
) -> Plan:
    """The source with another head of the same width, (vocab, hidden), that has a table of its own; a plain config."""
    names = list(stored.weight) if not head.is_tied else [*stored.head] or [f"{head.name}.weight"]
    new: dict[str, Tensor | TensorEntry] = dict.fromkeys(names, weight)
    if bias is not None:
        new |= dict.fromkeys([names[0].removesuffix("weight") + "bias", *stored.bias], bias)
    copied = copied_tensors(source, head, stored, base_model_prefix, tied=False)
    return Plan(new | copied, plain_config(source, head, tied=False), {})


def source_names(head: LmHead, stored: StoredNames, base_model_prefix: str) -> dict[str, Any]:
    """For restoring: how the source's files name the head's tensors."""
    return {
        "weight": list(stored.weight),
        "bias": list(stored.bias),
        "prefix": _missing_prefix(head, stored, base_model_prefix),  # that ours have and the source's lack
    }


def copied_tensors(
    source: ModelInspection, head: LmHead, stored: StoredNames, base_model_prefix: str, *, tied: bool
) -> dict[str, Tensor | TensorEntry]:
    """Everything but the head, and but a table that it goes on sharing."""
    prefix = _missing_prefix(head, stored, base_model_prefix)
    dropped = set(stored.weight + stored.bias) - (set() if tied else set(stored.embed))
    copied: dict[str, Tensor | TensorEntry] = {}
    for name, entry in source.tensors.items():
        if name not in dropped:
            copied[name if not prefix or name.startswith(f"{head.name}.") else prefix + name] = entry
    if not tied and not stored.embed:  # a tied table that was stored under the head's name only
        copied[f"{head.embed_name}.weight"] = source.tensors[stored.weight[0]]
    return copied


def plain_config(source: ModelInspection, head: LmHead, *, tied: bool) -> dict[str, Any]:
    config = dict(source.config)
    # In an encoder-decoder the same setting says that its two halves share their input table (and T5 scales by it).
    if tied or source.config.get("is_encoder_decoder"):
        return config
    inner = config.get("text_config")
    if head.is_tied or config.get("tie_word_embeddings"):  # also of a source whose config and weights disagree
        config["tie_word_embeddings"] = False
    if isinstance(inner, dict) and inner.get("tie_word_embeddings"):
        config["text_config"] = inner | {"tie_word_embeddings": False}
    return config


def _missing_prefix(head: LmHead, stored: StoredNames, base_model_prefix: str) -> str:
    """Checkpoints of a bare base model lack its prefix (`wte.weight` for `transformer.wte.weight`); ours never do."""
    full, prefix = f"{head.embed_name}.weight", f"{base_model_prefix}."
    bare = full.removeprefix(prefix)
    return prefix if bare != full and bare in stored.embed and full not in stored.embed else ""


def _head_tensors(name: str, factors: SlicedFactors, *, tied: bool) -> dict[str, Tensor | TensorEntry]:
    tensors: dict[str, Tensor | TensorEntry] = {}
    if factors.rounded is not None:
        tensors |= {f"{name}.{part}": tensor for part, tensor in factors.rounded.tensors.items()}
    elif not tied:
        tensors[f"{name}.weight"] = factors.weight
    if factors.triangle is not None:
        held = factors.triangle.shape[0] if tied else factors.kept  # columns that the checkpoint holds
        tensors[f"{name}.triangle"] = factors.triangle[:held, :held].contiguous().view(torch.int32)
    if factors.is_nested and factors.mean_hidden is not None:
        tensors[f"{name}.mean_hidden"] = factors.mean_hidden.view(torch.int32)
    if factors.order is not None:
        tensors[f"{name}.keep_columns"] = factors.order[: factors.kept]
    else:
        assert factors.projection is not None
        tensors[f"{name}.basis"] = factors.projection
    if factors.bias is not None:
        tensors[f"{name}.bias"] = factors.bias
    return tensors


def _removed(
    head: LmHead, source: ModelInspection, stored: StoredNames, factors: SlicedFactors
) -> dict[str, Tensor | TensorEntry]:
    """What going back needs and the checkpoint does not hold: columns of an untied head, a bias before its repair."""
    tensors: dict[str, Tensor | TensorEntry] = {f"bias.{name}": source.tensors[name] for name in stored.bias}
    if head.is_tied:
        return tensors
    tensors["weight_rest"] = factors.rest
    if factors.order is not None:
        tensors["inverse_order"] = factors.inverse_order
    else:
        assert factors.rotation is not None
        tensors["rotation"] = factors.rotation
    return tensors


def _embedding_tensors(name: str, factors: SlicedFactors) -> dict[str, Tensor | TensorEntry]:
    tensors: dict[str, Tensor | TensorEntry] = {
        f"{name}.weight": factors.weight,
        f"{name}.weight_rest": factors.rest,
    }
    if factors.order is not None:
        tensors[f"{name}.inverse_order"] = factors.inverse_order
    else:
        assert factors.rotation is not None
        tensors[f"{name}.rotation"] = factors.rotation
    return tensors


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
        if shard and (size + _nbytes(item) > max_bytes or (apart and is_copy is not copies)):
            yield shard
            shard, size = {}, 0
        shard[name] = item
        size, copies = size + _nbytes(item), is_copy
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
            "data_offsets": [offset, offset + _nbytes(item)],
        }
        offset += _nbytes(item)
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
    data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
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


def _nbytes(item: Tensor | TensorEntry) -> int:
    return item.nbytes


def _item_bytes(item: Tensor | TensorEntry) -> int:
    elements = max(1, torch.Size(item.shape).numel())
    return item.nbytes // elements


def _dtype_name(item: Tensor | TensorEntry) -> str:
    return item.dtype if isinstance(item, TensorEntry) else DTYPE_NAMES[item.dtype]
