import json
from pathlib import Path
from typing import Any

import pytest

from service.foundation.errors import CorruptCheckpoint
from service.models import safetensors_header
from service.models.safetensors_header import DTYPE_BITS, TensorEntry

F32_OF_TWO = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def read_tensor_table(path: Path) -> dict[str, TensorEntry]:
    with path.open("rb") as file:
        return safetensors_header.read_tensor_table(file, path.name, path.stat().st_size)


def write_raw(path: Path, header: bytes, data: bytes, length: int | None = None) -> Path:
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def write(path: Path, header: dict[str, Any], data: bytes) -> Path:
    return write_raw(path, json.dumps(header).encode(), data)


def test_offsets_are_absolute_and_the_bytes_there_are_the_tensors(tmp_path: Path) -> None:
    header = {
        "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
        "a": F32_OF_TWO,
        "empty": {"dtype": "F32", "shape": [0, 5], "data_offsets": [11, 11]},
    }
    path = write(tmp_path / "model.safetensors", header | {"__metadata__": {"format": "pt"}}, b"abcdefgh" + b"xyz")

    table = read_tensor_table(path)

    assert list(table) == ["a", "b", "empty"]
    assert path.read_bytes()[table["b"].start : table["b"].end] == b"xyz"
    assert table["a"].shape == (2,)
    assert table["a"].nbytes == 8
    assert table["a"].file == "model.safetensors"


def test_what_the_safetensors_library_writes_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = {"a": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), "s": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    table = read_tensor_table(tmp_path / "model.safetensors")

    raw = (tmp_path / "model.safetensors").read_bytes()[table["a"].start : table["a"].end]
    assert raw == tensors["a"].view(torch.uint8).numpy().tobytes()
    assert (table["s"].dtype, table["s"].shape) == ("F32", ())


@pytest.mark.parametrize(
    ("header", "data", "complaint"),
    [
        ({"a": F32_OF_TWO}, b"1234567", "truncated"),
        ({"a": F32_OF_TWO}, b"123456789", "belong to no tensor"),
        ({"a": F32_OF_TWO | {"data_offsets": [4, 12]}}, b"123456789012", "gap"),
        ({"a": F32_OF_TWO, "b": F32_OF_TWO}, b"12345678", "overlaps"),
        ({"a": F32_OF_TWO, "b": F32_OF_TWO | {"data_offsets": [4, 12]}}, b"123456789012", "overlaps"),
        ({"a": F32_OF_TWO | {"shape": [3]}}, b"12345678", "shape needs"),
        ({"a": F32_OF_TWO | {"shape": [2.0]}}, b"12345678", "shape"),
        ({"a": F32_OF_TWO | {"shape": [True, 2]}}, b"12345678", "shape"),
        ({"a": F32_OF_TWO | {"shape": [-1, -2]}}, b"12345678", "shape"),
        ({"a": F32_OF_TWO | {"shape": [2**63, 0], "data_offsets": [0, 0]}}, b"", "shape"),
        ({"a": F32_OF_TWO | {"shape": [1] * 40 + [2]}}, b"12345678", "shape"),
        ({"a": F32_OF_TWO | {"dtype": "F31"}}, b"12345678", "dtype"),
        ({"a": F32_OF_TWO | {"dtype": ["F32"]}}, b"12345678", "dtype"),
        ({"a": F32_OF_TWO | {"data_offsets": [8, 0]}}, b"12345678", "offsets"),
        ({"a": F32_OF_TWO | {"data_offsets": [0]}}, b"12345678", "offsets"),
        ({"a": F32_OF_TWO | {"data_offsets": [0, 10**30]}}, b"12345678", "offsets"),
        ({"a": F32_OF_TWO | {"extra": 1}}, b"12345678", "described"),
        ({"a": [1]}, b"", "described"),
        ({"": F32_OF_TWO}, b"12345678", "printable"),
        ({"a\nb": F32_OF_TWO}, b"12345678", "printable"),
        ({"a" * 600: F32_OF_TWO}, b"12345678", "printable"),
        ({"__metadata__": {"a": 1}}, b"", "metadata"),
        ({"__metadata__": []}, b"", "metadata"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: dict[str, Any], data: bytes, complaint: str) -> None:
    path = write(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CorruptCheckpoint, match=complaint):
        read_tensor_table(path)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (
            b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}',
            "twice",
        ),
        (b'{"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}', "twice"),
        (b'{"\\ud800":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', "surrogate"),
        (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', "NaN"),
        (b'{"a":' * 50_000, "deeply|not JSON"),
        (b'{"a":{"dtype":"U8","shape":[' + b"1" * 5000 + b'],"data_offsets":[0,1]}}', "damaged"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[]", "not a JSON object"),
        (b"", "not JSON"),
    ],
)
def test_a_header_that_is_not_strict_json_is_refused(tmp_path: Path, header: bytes, complaint: str) -> None:
    path = write_raw(tmp_path / "model.safetensors", header, b"1")
    with pytest.raises(CorruptCheckpoint, match=complaint):
        read_tensor_table(path)


@pytest.mark.parametrize("length", [3, 2**40, 2**64 - 1])
def test_a_header_length_beyond_the_file_is_refused_without_allocating_it(tmp_path: Path, length: int) -> None:
    path = write_raw(tmp_path / "model.safetensors", b"{}", b"", length)
    with pytest.raises(CorruptCheckpoint, match="does not fit"):
        read_tensor_table(path)


def test_a_file_shorter_than_its_length_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x00\x00\x00")
    with pytest.raises(CorruptCheckpoint, match="does not fit"):
        read_tensor_table(tmp_path / "model.safetensors")


def test_headers_and_tensor_counts_over_the_cap_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    path = write(tmp_path / "model.safetensors", {f"t{i}": empty for i in range(5)}, b"")
    assert len(read_tensor_table(path)) == 5
    monkeypatch.setattr(safetensors_header, "MAX_TENSORS", 4)
    with pytest.raises(CorruptCheckpoint, match="at most 4"):
        read_tensor_table(path)
    monkeypatch.setattr(safetensors_header, "MAX_HEADER_BYTES", 50)
    with pytest.raises(CorruptCheckpoint, match="over 50"):
        read_tensor_table(path)


def test_a_file_that_ends_before_its_promised_size_is_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "model.safetensors", b"{}", b"", 100)
    with path.open("rb") as file, pytest.raises(CorruptCheckpoint, match="breaks off"):
        safetensors_header.read_tensor_table(file, path.name, 10_000)


def test_sub_byte_dtypes_must_fill_whole_bytes(tmp_path: Path) -> None:
    assert DTYPE_BITS["F4"] == 4
    two = write(tmp_path / "two.safetensors", {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"1")
    assert read_tensor_table(two)["a"].nbytes == 1
    three = write(tmp_path / "three.safetensors", {"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, b"12")
    with pytest.raises(CorruptCheckpoint, match="shape needs"):
        read_tensor_table(three)
