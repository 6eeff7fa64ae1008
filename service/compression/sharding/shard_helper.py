"""The engine of a worker that does shards of somebody else's job."""

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from headroom.contract.job_recipe import JobRecipe
from service.compression.checkpoint.validation import LoadedCheckpoint, load_stored
from service.compression.drift.sweep import SweepHead
from service.compression.sharding.shard_reader import ShardReader
from service.compression.sharding.shard_work import encode_shard, hand_over_states, read_sweep_head, sweep_shard
from service.compression.sharding.stored_shards import lay_out, validate_shard
from service.compression.states.lm_head import LmHead
from service.compression.states.offloading import room_of
from service.foundation.errors import CorruptCheckpoint, InternalError
from service.models.model_files import digest_model, inspect_model
from service.ports.engine import EngineTask
from service.records.shards import EncodeQuestion, Question, StatesQuestion, SweepQuestion


class ShardHelper:
    """What one shard needed is kept for the next, and goes when another question is asked: there is room for one."""

    def __init__(self, task: EngineTask[JobRecipe], get: Callable[[str], Path | None]) -> None:
        self._task = task
        self._get = get
        self._device = torch.device(task.device)
        self._inspection = inspect_model(task.model.path)
        self._digest = digest_model(self._inspection)
        self._reader: tuple[str, ShardReader] | None = None
        self._head: tuple[str, SweepHead] | None = None
        self._stored: tuple[str, LoadedCheckpoint] | None = None

    def work(self, question: Question, number: int, into: Path, progress: Callable[[float], None]) -> None:
        """Answer a question for one shard, into a new file."""
        if question.model != self._digest:
            raise CorruptCheckpoint(f"this worker has other files of {self._task.model.id} than the job began with")
        reader = self._reader_of(question.windows)
        if isinstance(question, EncodeQuestion):
            encode_shard(reader, question, number, into, progress)
        elif isinstance(question, StatesQuestion):
            hand_over_states(reader, question, number, into, progress)
        elif isinstance(question, SweepQuestion):
            reader.forget_model()
            sweep_shard(reader, question, number, self._head_of(question.head, reader.head), into, progress)
        else:
            self._encode_before_loading(reader, question, number, progress)
            validate_shard(reader, question, number, self._stored_of(question.stored, reader), into, progress)

    def _reader_of(self, name: str) -> ShardReader:
        if self._reader is None or self._reader[0] != name:
            self._reader = name, ShardReader(self._task, self._inspection, self._file(name), self._device)
        return self._reader[1]

    def _encode_before_loading(
        self, reader: ShardReader, question: Question, number: int, progress: Callable[[float], None]
    ) -> None:
        """There is room for the model or for what is stored of it, not for both."""
        if not reader.has(question, number):
            self._forget()
            reader.hidden(question, number, "evaluation", lambda done: progress(0.0))
        reader.forget_model()

    def _head_of(self, name: str, head: LmHead) -> SweepHead:
        if self._head is None or self._head[0] != name:
            self._forget()
            self._head = name, read_sweep_head(self._file(name), head, self._device)
        return self._head[1]

    def _stored_of(self, name: str, reader: ShardReader) -> LoadedCheckpoint:
        if self._stored is None or self._stored[0] != name:
            self._forget()
            folder = lay_out(self._file(name), self._get, self._task.staging / name)
            if folder is None:
                raise self._unseen("the stored checkpoint")
            room = room_of(self._task, self._inspection, self._device)
            model = load_stored(folder, reader.meta["auto_class"], room)
            self._stored = name, LoadedCheckpoint(model, reader.head)
        return self._stored[1]

    def _forget(self) -> None:
        """Before there are two."""
        self._head = self._stored = None
        gc.collect()  # a model holds itself in circles

    def _file(self, name: str) -> Path:
        found = self._get(name)
        if found is None:
            raise self._unseen(repr(name))
        return found

    def _unseen(self, what: str) -> InternalError:
        return InternalError(f"this worker cannot see {what} of the job: do all workers share their storage?")
