"""A stored checkpoint that several workers load and measure, each on its own shards of the evaluated windows.

Its files are shared where they lie, not copied: a file system can, an object store cannot, and then the job's own
worker measures all windows. Each worker loads it through the public loader, which checks its fingerprint.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from service.compression.checkpoint.validation import COMPARED_POSITIONS, LoadedCheckpoint, StoredMeasurement
from service.compression.drift.sweep import Positions
from service.compression.sharding.shard_reader import ShardReader
from service.compression.sharding.sharded_source import ShardedHiddenStates
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.source import file_digest
from service.foundation.hashed_files import HashedFile
from service.ports.engine import ShardPool
from service.records.shards import ValidateQuestion


def measure_in_shards(
    loaded: LoadedCheckpoint,
    folder: Path,
    hashes: Mapping[str, HashedFile],
    hidden: HiddenStates,
    progress: Callable[[float], None],
) -> StoredMeasurement | None:
    """As LoadedCheckpoint.measure over all windows of `hidden`; None where they are not in shards, or other workers
    cannot see the files.

    folder: where `loaded` was loaded from; hashes: of its large files, by name.
    """
    if not isinstance(hidden, ShardedHiddenStates):
        return None
    with _shared(hidden.pool, folder, hashes) as stored:
        if stored is None:
            return None
        question = ValidateQuestion(**vars(hidden.asked), stored=stored)

        def work(number: int, into: Path, tell: Callable[[float], None]) -> None:
            validate_shard(hidden.reader, question, number, loaded, into, tell)

        answers = hidden.pool.answer(question, question.shards, work, progress)
        hidden.reader.forget_model()
        return _merged([load_file(answer) for answer in answers])


def validate_shard(
    reader: ShardReader,
    question: ValidateQuestion,
    number: int,
    loaded: LoadedCheckpoint,
    into: Path,
    progress: Callable[[float], None],
) -> None:
    """What the stored checkpoint does on a shard's evaluated windows."""
    hidden = reader.hidden(question, number, "evaluation", lambda done: progress(0.0))
    found = loaded.measure(hidden.examples, COMPARED_POSITIONS, progress, hidden)
    assert found.against_source is not None
    save_file(
        vars(found.against_source)
        | {
            "negative_log_likelihood": found.negative_log_likelihood,
            "lengths": found.lengths,
            "first_logits": found.first_logits if number == 0 else torch.empty(0),
        },
        into,
    )


def lay_out(listing: Path, get: Callable[[str], Path | None], folder: Path) -> Path | None:
    """A folder of links to the files that are listed, as a loader expects them; None if one is not to be had."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shared in json.loads(listing.read_text(encoding="utf-8")).items():
        found = get(shared)
        if found is None:
            return None
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(found.resolve())
    return folder


@contextmanager
def _shared(pool: ShardPool, folder: Path, hashes: Mapping[str, HashedFile]) -> Iterator[str | None]:
    """The name of the list of a checkpoint's files, while all workers can read them; None if they cannot be shared."""
    names = {path.name: f"stored-{_digest_of(path, hashes)}" for path in sorted(folder.iterdir()) if path.is_file()}
    told = json.dumps(names, sort_keys=True)
    listing = f"stored-{hashlib.sha256(told.encode()).hexdigest()}"
    try:
        if all(pool.share(shared, folder / name) for name, shared in names.items()):
            pool.put(listing, partial(_write, told))
            yield listing
        else:
            yield None
    finally:
        for shared in names.values():
            pool.drop(shared)


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _digest_of(path: Path, hashes: Mapping[str, HashedFile]) -> str:
    known = hashes.get(path.name)
    return known.sha256 if known is not None and known.is_still(path) else file_digest(path)


def _merged(answers: list[dict[str, Any]]) -> StoredMeasurement:
    named = [field.name for field in fields(Positions)]
    return StoredMeasurement(
        negative_log_likelihood=torch.cat([one["negative_log_likelihood"] for one in answers]),
        first_logits=answers[0]["first_logits"],
        lengths=torch.cat([one["lengths"] for one in answers]),
        against_source=Positions.joined([Positions(**{name: one[name] for name in named}) for one in answers]),
    )
