"""What is written: the head's own tensors, and the others byte for byte as the source has them; hashes on the way."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.compression.checkpoint.checkpoint import Plan
from service.compression.checkpoint.checkpoint_writing import write_checkpoint
from service.compression.checkpoint.hashed_writing import PIECE_BYTES
from service.compression.jobs.compress import compress
from service.foundation.errors import JobCanceled
from service.models.model_files import ModelInspection, inspect_model
from service.ports.engine import EngineOutcome, EngineTask

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


def test_a_large_checkpoint_is_the_bytes_of_the_plan_and_its_hash_theirs(make_task: MakeTask, tmp_path: Path) -> None:
    """Tensors of more than a piece, new and copied, whose lengths are no multiple of it."""
    source = write_source(make_task, torch.randn(5 * PIECE_BYTES // 4 + 3, generator=torch.Generator().manual_seed(0)))
    new = torch.randn(7 * PIECE_BYTES // 8 + 1, generator=torch.Generator().manual_seed(1)).bfloat16()
    (tmp_path / "out").mkdir()
    done: list[float] = []
    plan = Plan({"new": new, **source.tensors}, {}, {})
    hashes = write_checkpoint(plan, source, tmp_path / "out", 10**9, done.append)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["new"].view(torch.int16), new.view(torch.int16))
    assert torch.equal(written["large"], load_file(source.path / "model.safetensors")["large"])
    content = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert hashes["model.safetensors"].sha256 == hashlib.sha256(content).hexdigest()
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_a_cancellation_stops_within_a_tensor_and_leaves_no_thread(make_task: MakeTask, tmp_path: Path) -> None:
    source = write_source(make_task, torch.zeros(8 * PIECE_BYTES))
    (tmp_path / "out").mkdir()
    before = set(threading.enumerate())

    def cancel(done: float) -> None:
        if done > 0.25:
            raise JobCanceled

    with pytest.raises(JobCanceled):
        write_checkpoint(Plan(dict(source.tensors), {}, {}), source, tmp_path / "out", 10**9, cancel)
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 0.3 * source.nbytes
    assert set(threading.enumerate()) <= before


def test_a_source_that_became_shorter_is_an_error(make_task: MakeTask, tmp_path: Path) -> None:
    source = write_source(make_task, torch.zeros(2 * PIECE_BYTES))
    os.truncate(source.path / "model.safetensors", PIECE_BYTES)
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="ended early while tensor 'large' was copied"):
        write_checkpoint(Plan(dict(source.tensors), {}, {}), source, tmp_path / "out", 10**9, lambda done: None)


def write_source(make_task: MakeTask, large: torch.Tensor) -> ModelInspection:
    folder = make_task().model.path
    save_file({"large": large}, folder / "model.safetensors", metadata={"format": "pt"})
    return inspect_model(folder)
