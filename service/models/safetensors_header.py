"""Read the header of a safetensors file, trusting nothing in it. No tensor is loaded and no name is used as a path.

Layout: 8 bytes header length (little endian), the header (JSON), the data. Stricter than the safetensors library,
which accepts duplicate keys and millions of tensors.
"""

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

from service.foundation.errors import CorruptCheckpoint
from service.foundation.strict_json import NotStrictJson, parse_object

MAX_HEADER_BYTES = 25_000_000
MAX_TENSORS = 200_000
MAX_NAME_LENGTH = 512
MAX_RANK = 16

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies. `file` is a plain name inside the model's folder."""

    name: str
    dtype: str  # as safetensors names it: "BF16", "F32", ...
    shape: tuple[int, ...]
    file: str
    start: int  # absolute byte offsets in the file
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


def read_tensor_table(file: BinaryIO, name: str, size: int) -> dict[str, TensorEntry]:
    """The tensors of one file of `size` bytes, in the order of their bytes. Reads only the header.

    CorruptCheckpoint names the file and the tensor.
    """
    header = _read_header(file, name, size)
    try:
        described = parse_object(header)
    except NotStrictJson as error:
        raise CorruptCheckpoint(f"the header of {name} is damaged: {error}") from None
    _check_metadata(name, described.pop("__metadata__", {}))
    if len(described) > MAX_TENSORS:
        raise CorruptCheckpoint(f"{name} names {len(described)} tensors; at most {MAX_TENSORS} are read")
    data_start = 8 + len(header)
    entries = [_entry(name, tensor, value, data_start) for tensor, value in described.items()]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_layout(name, entries, data_start, size)
    return {entry.name: entry for entry in entries}


def _read_header(file: BinaryIO, name: str, size: int) -> bytes:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise CorruptCheckpoint(f"{name} is truncated: its header does not fit into the file")
    if length > MAX_HEADER_BYTES:
        raise CorruptCheckpoint(f"the header of {name} has {length} bytes, over {MAX_HEADER_BYTES}")
    header = file.read(length)
    if len(header) != length:
        raise CorruptCheckpoint(f"{name} is truncated: its header breaks off")
    return header


def _check_metadata(file: str, metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptCheckpoint(f"the header of {file} is damaged: its metadata is not a table of texts")


def _entry(file: str, name: str, value: Any, data_start: int) -> TensorEntry:
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise CorruptCheckpoint(f"{file} holds a tensor whose name is not printable: {name[:80]!a}")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise CorruptCheckpoint(f"tensor '{name}' in {file} is not described by dtype, shape and data_offsets alone")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CorruptCheckpoint(f"tensor '{name}' in {file} has an unknown dtype: {ascii(dtype)[:80]}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise CorruptCheckpoint(f"tensor '{name}' in {file} has no valid shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CorruptCheckpoint(f"tensor '{name}' in {file} has no valid offsets")
    nbytes = offsets[1] - offsets[0]
    if math.prod(shape) * DTYPE_BITS[dtype] != nbytes * 8:
        raise CorruptCheckpoint(f"tensor '{name}' in {file} has {nbytes} bytes, not what its shape needs")
    return TensorEntry(name, dtype, tuple(shape), file, data_start + offsets[0], data_start + offsets[1])


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_layout(file: str, entries: list[TensorEntry], data_start: int, file_size: int) -> None:
    """The data is covered exactly once and ends with the file."""
    position = data_start
    for entry in entries:
        if entry.start != position:
            raise CorruptCheckpoint(f"tensor '{entry.name}' in {file} leaves a gap to its neighbour, or overlaps it")
        position = entry.end
    if position > file_size:
        last = entries[-1].name
        raise CorruptCheckpoint(f"{file} is truncated: {position - file_size} bytes of tensor '{last}' are missing")
    if position < file_size:
        raise CorruptCheckpoint(f"{file} holds {file_size - position} bytes that belong to no tensor")
