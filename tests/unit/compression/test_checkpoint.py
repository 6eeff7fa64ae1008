"""What is written: the head's own tensors, and the others byte for byte as the source has them; hashes on the way."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.compression.hashed_writing import HashedWriter
from service.compression.pipeline import compress
from service.model_files import ModelInspection, inspect_model
from service.ports import EngineOutcome, EngineTask

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]
SHARDED = {"family": "llama", "shard_size": "20KB", "dtype": torch.bfloat16}


def raw(model: ModelInspection, name: str) -> bytes:
    entry = model.tensors[name]
    return (model.path / entry.file).read_bytes()[entry.start : entry.end]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["slope", "probability"])
def test_every_tensor_but_the_head_is_the_same_bytes(make_task: MakeTask, run: Run, method: str, tied: bool) -> None:
    task = make_task(model=SHARDED | {"tied": tied}, method=method, ratio=0.5, options={"max_shard_bytes": 1_000_000})
    before = inspect_model(task.model.path)
    assert len(before.files) > 2
    run(task)
    after = inspect_model(task.staging)
    head = {"model.embed_tokens.weight"} if tied else {"lm_head.weight"}
    kept = before.tensors.keys() - head
    assert kept < after.tensors.keys()
    assert len(kept) > 15
    for name in kept:
        assert raw(after, name) == raw(before, name), name
        assert after.tensors[name].dtype == before.tensors[name].dtype


def test_copying_does_not_pass_through_torch(make_task: MakeTask, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN with a payload arrives with it."""
    task = make_task(model=SHARDED, ratio=0.5)
    source = next(iter(task.model.path.glob("*.safetensors")))
    tensors = load_file(source)
    strange = torch.frombuffer(bytearray(b"\x01\x00\xc0\x7f" * 4), dtype=torch.float32)  # NaN with a payload
    save_file(tensors | {"extra.nan": strange}, source, metadata={"format": "pt"})
    index = task.model.path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"weight_map": {', f'"weight_map": {{"extra.nan": "{source.name}",'))
    run(task)
    assert raw(inspect_model(task.staging), "extra.nan") == b"\x01\x00\xc0\x7f" * 4


@pytest.mark.parametrize("options", [{}, {"export": ["dense"], "repair": "none"}, {"keep_removed": True}])
def test_the_hashes_that_writing_gives_are_those_of_the_files(make_task: MakeTask, options: dict[str, Any]) -> None:
    task = make_task(model=SHARDED | {"tied": False}, ratio=0.3, options={"max_shard_bytes": 1_000_000} | options)
    hashes = compress(task, lambda phase, done: None).hashes
    weights = {path.relative_to(task.staging).as_posix() for path in task.staging.rglob("*.safetensors")}
    assert hashes.keys() == weights
    for name, file in hashes.items():
        assert file.sha256 == hashlib.sha256((task.staging / name).read_bytes()).hexdigest()
        assert file.is_still(task.staging / name)


def test_what_was_written_is_what_was_hashed_when_a_buffer_is_used_again(tmp_path: Path) -> None:
    buffer = memoryview(bytearray(100_000))
    with HashedWriter(tmp_path / "file") as out:
        for value in range(50):
            buffer[:] = bytes([value]) * len(buffer)
            out.write(buffer)
    content = (tmp_path / "file").read_bytes()
    assert content == b"".join(bytes([value]) * len(buffer) for value in range(50))
    assert out.hashed().sha256 == hashlib.sha256(content).hexdigest()
    assert out.hashed().size == len(content)
