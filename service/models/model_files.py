"""Check a local model folder before anything loads it, and tell what is in it. No torch, no transformers, no network.

Refused: remote code, kernel repositories, adapters that point to another model, pickle weights, and safetensors whose
header and bytes disagree. Says nothing about whether transformers can build the model.
"""

import hashlib
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from service.foundation.errors import CorruptCheckpoint, UnsafeModel, UnsupportedModel
from service.foundation.strict_json import NotStrictJson, parse_object
from service.models.safetensors_header import TensorEntry, read_tensor_table
from service.models.side_files import TEMPLATES_FOLDER

__all__ = [
    "ModelFiles",
    "ModelInspection",
    "TensorEntry",
    "digest_model",
    "inspect_files",
    "inspect_model",
    "refuse_outside_links",
    "refuse_without_safetensors",
]

MAX_JSON_BYTES = 25_000_000
MAX_SHARDS = 2_000
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors")
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
# transformers reads names such as "sdpa" or "paged|eager"; a '/' or '@' makes it fetch and run a kernel repository.
IMPLEMENTATION_KEY = re.compile(r".*_implementation(_internal)?")
PLAIN_IMPLEMENTATION = re.compile(r"[A-Za-z0-9_|]*")

# Most telling first. An encoder-decoder's `shared` may stand beside copies of it under the names of its two halves.
EMBEDDING_NAMES = ("shared.weight", "embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
CAUSAL_HEAD_NAMES = ("lm_head.weight", "embed_out.weight")
MASKED_HEAD_NAMES = ("cls.predictions.decoder.weight", "lm_head.decoder.weight", "vocab_projector.weight")
HEAD_NAMES = CAUSAL_HEAD_NAMES + MASKED_HEAD_NAMES
PIECE_BYTES = 1 << 18
CONFIG_DTYPES = ("float64", "float32", "float16", "bfloat16", "double", "float", "half", "auto")
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")
QUANTIZED_NAMES = (".weight", ".qweight", ".weight_packed", ".weight_quantized", ".int_weight")
DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class ModelInspection:
    """What the files of a model say. None where they do not say it."""

    path: Path  # the folder; of a hub's model that is not here yet, only its id
    config: dict[str, Any]
    tensors: dict[str, TensorEntry]
    files: tuple[str, ...]  # the safetensors files that hold `tensors`
    nbytes: int  # of those files
    dtype: str  # of most bytes: "bfloat16", ...
    vocab_size: int | None
    hidden_size: int | None  # columns of the head
    is_tied: bool  # as the weights say, else the config; a hint: only the built model shares storage or does not
    head: str | None  # the tensor that is lm_head's weight; the embedding's name when tied
    tokenizer_files: tuple[str, ...] = ()  # what its tokenizer reads, relative to `path`; known once it was loaded


class ModelFiles(Protocol):
    """The top folder of a model, wherever it is."""

    def names(self) -> set[str]: ...

    def size(self, name: str) -> int: ...

    def open(self, name: str) -> BinaryIO: ...


class LocalFiles:
    """A folder on this machine. What cannot be read is a CorruptCheckpoint that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> set[str]:
        try:
            return {file.name for file in self._path.iterdir()}
        except OSError as error:
            raise CorruptCheckpoint(f"the folder {self._path.name} cannot be read: {error.strerror}") from error

    def size(self, name: str) -> int:
        with self.open(name) as file:
            return os.fstat(file.fileno()).st_size

    def open(self, name: str) -> BinaryIO:
        try:
            if not stat.S_ISREG((self._path / name).stat().st_mode):  # opening a FIFO would wait for ever
                raise CorruptCheckpoint(f"{name} is not a regular file")
            return (self._path / name).open("rb")
        except OSError as error:
            raise CorruptCheckpoint(f"{name} cannot be read: {error.strerror}") from error


def inspect_model(path: Path) -> ModelInspection:
    """Check every file of a local model that loading would read."""
    return inspect_files(LocalFiles(path), path)


def inspect_files(files: ModelFiles, path: Path) -> ModelInspection:
    """UnsafeModel or CorruptCheckpoint says which file is at fault, and why. Reads headers only, never the weights."""
    names = files.names()
    config = _read_json(files, "config.json")
    _refuse_unsafe_config(config, "config.json")
    _refuse_unknown_dtype(config)
    if "tokenizer_config.json" in names:
        _refuse_unsafe_config(_read_json(files, "tokenizer_config.json"), "tokenizer_config.json")
    if "adapter_config.json" in names:
        raise UnsafeModel("adapter_config.json points to another model; merge the adapter into its model first")
    _check_architecture(config)
    refuse_without_safetensors(names)
    weight_map = None if SINGLE in names else _weight_map(files)  # the order in which transformers looks
    weight_files = sorted(set(weight_map.values())) if weight_map else [SINGLE]
    tensors = _read_tables(files, weight_files)
    if weight_map:
        _check_index(weight_map, tensors)
    _refuse_quantized(config, tensors)
    if not tensors:
        raise CorruptCheckpoint("the checkpoint holds no tensors")
    is_tied = _is_tied(config, tensors) and not _has_own_head(files, config, tensors)
    return _described(path, config, tensors, {name: files.size(name) for name in weight_files}, is_tied)


def _described(
    path: Path, config: dict[str, Any], tensors: dict[str, TensorEntry], sizes: dict[str, int], is_tied: bool
) -> ModelInspection:
    head = _head_name(tensors, EMBEDDING_NAMES if is_tied else HEAD_NAMES)
    vocab_size = _positive(config, "vocab_size")
    if head and vocab_size and tensors[head].shape[0] != vocab_size:
        raise CorruptCheckpoint(f"tensor '{head}' has {tensors[head].shape[0]} rows, but vocab_size is {vocab_size}")
    return ModelInspection(
        path=path,
        config=config,
        tensors=tensors,
        files=tuple(sizes),
        nbytes=sum(sizes.values()),
        dtype=_main_dtype(tensors),
        vocab_size=tensors[head].shape[0] if head else vocab_size,
        hidden_size=tensors[head].shape[1] if head else _positive(config, "hidden_size", "n_embd", "d_model"),
        is_tied=is_tied,
        head=head,
    )


def digest_model(inspection: ModelInspection) -> str:
    """sha256 over config.json and every byte of the weights. Reads all of them: seconds for each few gigabytes."""
    total = hashlib.sha256()
    for name in ("config.json", *sorted(inspection.files)):
        with (inspection.path / name).open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def refuse_without_safetensors(names: set[str]) -> None:
    """UnsafeModel for a folder with pickle weights only, CorruptCheckpoint for one with no weights."""
    if SINGLE in names or INDEX in names:
        return
    if any(Path(name).suffix in PICKLE_SUFFIXES for name in names):
        raise UnsafeModel("the weights are pickle files, which can run code; convert them to safetensors first")
    raise CorruptCheckpoint(f"neither {SINGLE} nor {INDEX} is there")


def refuse_outside_links(path: Path, root: Path, hint: str = "") -> None:
    """UnsafeModel if the folder or a file in it is a link to somewhere outside of `root`. hint: what can be done."""
    inside = root.resolve()
    for candidate in (path, *path.iterdir(), *(path / TEMPLATES_FOLDER).glob("*")):
        if not candidate.resolve().is_relative_to(inside):
            told = f"; {hint}" if hint else ""
            raise UnsafeModel(f"{candidate.name} is a link that leaves the models directory{told}")


def _read_json(files: ModelFiles, name: str) -> dict[str, Any]:
    if name not in files.names():
        raise CorruptCheckpoint(f"{name} is missing")
    with files.open(name) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise CorruptCheckpoint(f"{name} is larger than {MAX_JSON_BYTES} bytes")
    try:
        return parse_object(data, allow_constants=True)
    except NotStrictJson as error:
        raise CorruptCheckpoint(f"{name} is damaged: {error}") from None


def _refuse_unsafe_config(config: dict[str, Any], file: str) -> None:
    """Walk sub-configs too. A stack, since the depth is the sender's choice."""
    waiting: list[tuple[object, bool]] = [(config, False)]
    while waiting:
        value, is_implementation = waiting.pop()
        if isinstance(value, dict):
            if "auto_map" in value:
                raise UnsafeModel(f"{file} asks to run code from the model's repository (auto_map); it is never run")
            for key, inner in value.items():
                waiting.append((inner, is_implementation or bool(IMPLEMENTATION_KEY.fullmatch(key))))
        elif isinstance(value, list):
            waiting.extend((inner, is_implementation) for inner in value)
        elif is_implementation and isinstance(value, str) and not PLAIN_IMPLEMENTATION.fullmatch(value):
            raise UnsafeModel(f"{file} names a kernel repository ({value[:80]!a}); remove that setting")


def _refuse_unknown_dtype(config: dict[str, Any]) -> None:
    """transformers looks the name up in torch, and says then what torch has not."""
    for place, within in ((config, ""), *((inner, f"{key}.") for key, inner in config.items())):
        if not isinstance(place, dict) or within == "quantization_config.":
            continue
        for key in ("dtype", "torch_dtype"):
            value = place.get(key)
            for name in value.values() if isinstance(value, dict) else [value]:
                if name is not None and name not in CONFIG_DTYPES:
                    raise CorruptCheckpoint(
                        f"config.json has {within}{key} {ascii(name)[:80]}, which is no dtype; write one of "
                        "'bfloat16', 'float16', 'float32', or leave it out"
                    )


def _refuse_quantized(config: dict[str, Any], tensors: dict[str, TensorEntry]) -> None:
    """Weights of 8 and fewer bits under a config that does not say so: scales are lost, and so is the model."""
    if config.get("quantization_config"):
        return
    for entry in tensors.values():
        is_narrow = entry.dtype.startswith(("F8", "F6", "F4"))
        if len(entry.shape) >= 2 and (is_narrow or (entry.dtype in INTEGERS and entry.name.endswith(QUANTIZED_NAMES))):
            raise UnsupportedModel(
                f"the model is quantised already (tensor '{entry.name}' is stored as {entry.dtype}), although "
                "config.json has no quantization_config; send the unquantised one"
            )


def _check_architecture(config: dict[str, Any]) -> None:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise CorruptCheckpoint("config.json names no architecture; 'architectures' must be a list of class names")
    if not isinstance(config.get("model_type"), str):
        raise CorruptCheckpoint("config.json has no 'model_type'")


def _weight_map(files: ModelFiles) -> dict[str, str]:
    """Tensor name -> file name, only plain file names."""
    weight_map = _read_json(files, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptCheckpoint(f"{INDEX} has no 'weight_map'")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
            raise CorruptCheckpoint(f"{INDEX} places tensor {name[:80]!a} in {ascii(file)[:80]}: no file name")
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise CorruptCheckpoint(f"{INDEX} names more than {MAX_SHARDS} files")
    return weight_map


def _read_tables(files: ModelFiles, weight_files: list[str]) -> dict[str, TensorEntry]:
    """The tensors of all files as one table."""
    tensors: dict[str, TensorEntry] = {}
    for file in weight_files:
        with files.open(file) as opened:
            table = read_tensor_table(opened, file, files.size(file))
        for name in table.keys() & tensors.keys():
            raise CorruptCheckpoint(f"tensor '{name}' is in {tensors[name].file} and in {file}")
        tensors |= table
    return tensors


def _check_index(weight_map: dict[str, str], tensors: dict[str, TensorEntry]) -> None:
    """The index and the files must name the same tensors in the same places."""
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file != file:
            raise CorruptCheckpoint(f"tensor {name[:80]!a} is not in {file}, where {INDEX} places it")
    for name in tensors.keys() - weight_map.keys():
        raise CorruptCheckpoint(f"tensor '{name}' in {tensors[name].file} is not listed in {INDEX}")


def _is_tied(config: dict[str, Any], tensors: dict[str, TensorEntry]) -> bool:
    """What the config says; where it is silent, tied is who stores no head of its own, and every masked model.

    Old files of those hold the table under both names.
    """
    inner = config.get("text_config")
    for place in (config, inner if isinstance(inner, dict) else {}):
        if isinstance(place.get("tie_word_embeddings"), bool):
            return bool(place["tie_word_embeddings"])
    return _head_name(tensors, CAUSAL_HEAD_NAMES) is None


def _has_own_head(files: ModelFiles, config: dict[str, Any], tensors: dict[str, TensorEntry]) -> bool:
    """Whether a head of other content than the input table is stored: it is what the model was trained with, whatever
    the config says. In an encoder-decoder the same setting is about more than the head, so the config stands.
    """
    if config.get("is_encoder_decoder"):
        return False
    head, table = (_head_name(tensors, names) for names in (HEAD_NAMES, EMBEDDING_NAMES))
    if head is None or table is None or head == table:
        return False
    ours, other = tensors[head], tensors[table]
    if ours.shape != other.shape or ours.dtype != other.dtype:
        return ours.shape == other.shape
    return not _same_bytes(files, ours, other)


def _same_bytes(files: ModelFiles, one: TensorEntry, other: TensorEntry) -> bool:
    """All of them on this machine; over a network a few pieces, as two tables that differ do so nearly everywhere."""
    starts = range(0, one.nbytes, PIECE_BYTES)
    pieces = starts if isinstance(files, LocalFiles) else {0, starts[len(starts) // 2], starts[-1]}
    with files.open(one.file) as first, files.open(other.file) as second:
        for start in pieces:
            first.seek(one.start + start)
            second.seek(other.start + start)
            count = min(PIECE_BYTES, one.nbytes - start)
            if first.read(count) != second.read(count):
                return False
    return True


def _head_name(tensors: dict[str, TensorEntry], endings: tuple[str, ...]) -> str | None:
    """The one matrix with the first of such names, also below a prefix. None when no name has exactly one."""
    matrices = [entry.name for entry in tensors.values() if len(entry.shape) == 2]
    for ending in endings:
        found = [name for name in matrices if name == ending or name.endswith(f".{ending}")]
        if len(found) == 1:
            return found[0]
    return None


def _positive(config: dict[str, Any], *keys: str) -> int | None:
    """The first of `keys` that is a positive integer, in the config or in its `text_config`."""
    inner = config.get("text_config")
    for place in (config, inner if isinstance(inner, dict) else {}):
        for key in keys:
            if type(place.get(key)) is int and place[key] > 0:
                return int(place[key])
    return None


def _main_dtype(tensors: dict[str, TensorEntry]) -> str:
    held: Counter[str] = Counter()
    for entry in tensors.values():
        held[entry.dtype] += entry.nbytes
    dtype = held.most_common(1)[0][0]
    return DTYPE_NAMES.get(dtype, dtype.lower())
