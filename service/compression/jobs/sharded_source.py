"""A corpus whose windows are shared out among workers: each shard is encoded, summed and swept where its hidden states
are, and what comes back is small. Merged, the figures are those of one worker up to the rounding of sums.

What a shard answers to "encode": the statistics of its calibration windows, which add up. To "sweep": the figures of
each of its evaluation positions at every size. Whoever does a shard keeps its hidden states in the cache of that
machine; another worker that has to go on with it encodes its windows again.
"""

import gc
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from headroom.contract.compress import Method
from headroom.contract.job_recipe import JobRecipe
from service.compression.drift.sweep import Positions, SweepHead, sweep_positions
from service.compression.heads.basis import Basis
from service.compression.states.hidden_cache import HiddenCache, HiddenStates, Spread
from service.compression.states.lm_head import LmHead
from service.compression.states.source import (
    FingerprintInput,
    Source,
    cache_key,
    check_numbers,
    file_digest,
    inspect_with_tokenizer,
    load_backbone,
    read_head,
    read_windows,
    stored_names,
)
from service.compression.states.statistics import Statistics, calibrate
from service.compression.text.corpus import Text
from service.compression.text.examples import Examples
from service.compression.text.reading import reading_of
from service.foundation.errors import CorruptCheckpoint, InternalError
from service.models.model_files import ModelInspection, digest_model, inspect_model
from service.ports.engine import EngineTask, ShardPool
from service.records.shards import AskedWindows, EncodeQuestion, Question, SweepQuestion, cache_name, ranges

PARTS = ("calibration", "evaluation")
FIRST_ROWS = 64  # hidden states of the first shard that come back too: stored models are compared on them


class ShardReader:
    """The windows of all shards, the head, and the hidden states of any shard: from the cache, or from the model."""

    def __init__(
        self,
        task: EngineTask[JobRecipe],
        inspection: ModelInspection,
        file: Path,
        device: torch.device,
        model: Any = None,
    ) -> None:
        self.device = device
        self.meta: dict[str, Any]
        self.parts, self.meta = _read_windows(file)
        self.head: LmHead = read_head(inspection, self.meta["head"], stored_names(self.meta), device)
        self._task = task
        self._inspection = inspection
        self._model = model
        self._cache = HiddenCache(task.cache_dir / "hidden_states")
        self._held: set[str] = set()

    def hidden(
        self,
        question: AskedWindows,
        number: int,
        part: str,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> HiddenStates:
        """The hidden states of a shard. Runs the backbone over both of its parts if this machine's cache lacks them."""
        name = cache_name(question, number)
        if name not in self._held:
            if not (self._cache.hold(name) and self._cache.is_whole(name)):
                self._cache.fill(name, self._loaded(), self._shard(question, number), self.meta, progress)
                self._cache.hold(name)
            self._held.add(name)
        progress(1.0)
        return self._cache.open(name, part)

    def forget_model(self) -> None:
        """Frees its memory; it is loaded again if need be."""
        if self._model is not None:
            self._model = None
            gc.collect()  # a model holds itself in circles

    def _shard(self, question: AskedWindows, number: int) -> dict[str, Examples]:
        return {
            part: examples.part(ranges(len(examples), question.shards)[number]) for part, examples in self.parts.items()
        }

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = load_backbone(self._task, self._inspection, self.meta["auto_class"], self.device)
        return self._model


@dataclass(frozen=True, eq=False)
class SpreadHiddenStates(HiddenStates):
    """`file` holds the windows. Read as a whole (`blocks`), what other machines encoded is encoded here again."""

    reader: ShardReader
    pool: ShardPool
    asked: AskedWindows
    part: str
    first_rows: Tensor  # (<= FIRST_ROWS, hidden)

    def first(self, rows: int) -> Tensor:
        return self.first_rows[:rows] if rows <= self.first_rows.shape[0] else super().first(rows)

    def blocks(self, rows: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
        pending = torch.empty(0, self.hidden_size, dtype=self.dtype)
        for number in range(self.asked.shards):
            for block in self.reader.hidden(self.asked, number, self.part).blocks(rows):
                pending = torch.cat([pending, block])
                while pending.shape[0] >= rows:
                    yield pending[:rows].to(device, copy=True)
                    pending = pending[rows:]
        if pending.shape[0]:
            yield pending.to(device, copy=True)
        self.reader.forget_model()

    @property
    def spread(self) -> Spread:
        return self._sweep

    def _sweep(
        self, head: SweepHead, sizes: list[int], top: int, progress: Callable[[float], None]
    ) -> Iterator[Positions]:
        """The positions of all shards, in order."""
        tensors = _tensors_of(head)
        name = f"head-{_digest(tensors)}"
        self.pool.put(name, lambda path: save_file(tensors, path, {"method": head.basis.method.value}))
        question = SweepQuestion(**vars(self.asked), head=name, sizes=tuple(sizes), top=top)

        def work(number: int, into: Path, tell: Callable[[float], None]) -> None:
            _sweep_shard(self.reader, question, number, head, into, tell)

        for answer in self.pool.answer(question, question.shards, work, progress):
            yield Positions(**load_file(answer))


def open_spread_source(task: EngineTask[JobRecipe], device: torch.device, progress: Callable[[float], None]) -> Source:
    """The source of a job over `task.pool`. There are no more shards than calibration or evaluation windows."""
    pool = task.pool
    assert pool is not None
    inspection = inspect_with_tokenizer(task.model.path)
    digest, corpus_digest = digest_model(inspection), file_digest(task.corpus.path)
    text = Text(task.corpus.path, task.corpus.format, task.corpus.field, task.recipe.group_field)
    reading = reading_of(inspection.config, text)
    key = cache_key(task, inspection.path, digest, corpus_digest, device)
    name, model = f"windows-{key}", None
    if pool.get(name) is None:
        model, parts, meta = read_windows(task, inspection, inspection.path, reading, text, device)
        pool.put(name, lambda path: _write_windows(path, parts, meta | {"auto_class": reading.auto_class}))
    file = pool.get(name)
    assert file is not None, "what was put can be read"
    reader = ShardReader(task, inspection, file, device, model)
    shards = min(pool.shards, *(len(examples) for examples in reader.parts.values()))
    asked = EncodeQuestion(windows=name, shards=shards, model=digest, revision=task.model.revision)

    def work(number: int, into: Path, tell: Callable[[float], None]) -> None:
        _encode_shard(reader, asked, number, into, tell)

    answers = pool.answer(asked, shards, work, progress)
    del model
    reader.forget_model()
    summed, first, was_warm = _merged(answers)
    check_numbers(summed)

    def spread(part: str, first_rows: Tensor) -> SpreadHiddenStates:
        return SpreadHiddenStates(
            file, first.dtype, reader.head.hidden_size, reader.parts[part], reader, pool, asked, part, first_rows
        )

    return Source(
        inspection=inspection,
        digest=digest,
        corpus_digest=corpus_digest,
        reading=reading,
        head=reader.head,
        stored=stored_names(reader.meta),
        base_model_prefix=reader.meta["base_model_prefix"],
        settings=reader.meta["settings"],
        groups=reader.meta["groups"],
        calibration=spread("calibration", first[:0]),
        evaluation=spread("evaluation", first),
        fingerprint=FingerprintInput(**reader.meta["fingerprint"]),
        key=key,
        cache=HiddenCache(task.cache_dir / "hidden_states"),
        was_warm=was_warm,
        summed=summed,
    )


def _merged(answers: list[Path]) -> tuple[Statistics, Tensor, bool]:
    """Sum of the statistics, hidden states of the first positions, and whether no backbone ran; one file at a time."""
    summed: Statistics | None = None
    first, was_warm = torch.empty(0), True
    for path in answers:
        tensors = load_file(path)
        rows, warm = tensors.pop("first"), bool(tensors.pop("was_warm"))
        part = Statistics(**tensors)
        first, was_warm = (rows if summed is None else first), was_warm and warm
        summed = part if summed is None else summed + part
    assert summed is not None
    return summed, first, was_warm


class ShardHelper:
    """A worker that does shards of somebody else's job; what one shard needed is kept for the next."""

    def __init__(self, task: EngineTask[JobRecipe], get: Callable[[str], Path | None]) -> None:
        self._task = task
        self._get = get
        self._device = torch.device(task.device)
        self._inspection = inspect_model(task.model.path)
        self._digest = digest_model(self._inspection)
        self._reader: tuple[str, ShardReader] | None = None
        self._head: tuple[str, SweepHead] | None = None

    def work(self, question: Question, number: int, into: Path, progress: Callable[[float], None]) -> None:
        """Answer a question for one shard, into a new file."""
        if question.model != self._digest:
            raise CorruptCheckpoint(f"this worker has other files of {self._task.model.id} than the job began with")
        reader = self._reader_of(question.windows)
        if isinstance(question, EncodeQuestion):
            _encode_shard(reader, question, number, into, progress)
            return
        reader.forget_model()
        _sweep_shard(reader, question, number, self._head_of(question.head, reader.head), into, progress)

    def _reader_of(self, name: str) -> ShardReader:
        if self._reader is None or self._reader[0] != name:
            self._reader = name, ShardReader(self._task, self._inspection, self._file(name), self._device)
        return self._reader[1]

    def _head_of(self, name: str, head: LmHead) -> SweepHead:
        if self._head is None or self._head[0] != name:
            self._head = None  # before there are two
            self._head = name, _read_sweep_head(self._file(name), head, self._device)
        return self._head[1]

    def _file(self, name: str) -> Path:
        found = self._get(name)
        if found is None:
            raise InternalError(f"this worker cannot see {name!r} of the job: do all workers share their storage?")
        return found


def _encode_shard(
    reader: ShardReader, question: EncodeQuestion, number: int, into: Path, progress: Callable[[float], None]
) -> None:
    ran = False

    def encoding(done: float) -> None:
        nonlocal ran
        ran |= done < 1
        progress(0.7 * done)

    calibration = reader.hidden(question, number, "calibration", encoding)
    evaluation = reader.hidden(question, number, "evaluation")
    statistics = calibrate(
        calibration,
        reader.head,
        with_fisher=False,
        device=reader.device,
        progress=lambda done: progress(0.7 + 0.3 * done),
    )
    first = evaluation.first(FIRST_ROWS)
    save_file(vars(statistics) | {"first": first, "was_warm": torch.tensor(not ran)}, into)


def _sweep_shard(
    reader: ShardReader,
    question: SweepQuestion,
    number: int,
    head: SweepHead,
    into: Path,
    progress: Callable[[float], None],
) -> None:
    hidden = reader.hidden(question, number, "evaluation", lambda done: progress(0.0))
    blocks = list(sweep_positions(hidden, head, list(question.sizes), top=question.top, progress=progress))
    save_file({name: torch.cat([vars(block)[name] for block in blocks]) for name in vars(blocks[0])}, into)


def _write_windows(path: Path, parts: dict[str, Examples], meta: dict[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    for part, examples in parts.items():
        named = examples.inputs | {"labels": examples.labels}
        tensors |= {f"{part}.{name}": rows.contiguous() for name, rows in named.items()}
    save_file(tensors, path, {"meta": json.dumps(meta)})


def _read_windows(path: Path) -> tuple[dict[str, Examples], dict[str, Any]]:
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, rows in load_file(path).items():
        part, _, argument = name.partition(".")
        parts[part][argument] = rows
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["meta"])
    return {part: Examples(labels=named.pop("labels"), inputs=named) for part, named in parts.items()}, meta


def _tensors_of(head: SweepHead) -> dict[str, Tensor]:
    """What another worker needs to cut the same head: the basis, and what the sweep adds to it."""
    basis = head.basis
    found = {
        "importance": basis.importance,
        "order": basis.order,
        "synthesis": basis.synthesis,
        "analysis": basis.analysis,
        "center": head.center,
        "constant": head.constant,
    }
    # A copy of each: safetensors refuses tensors that share memory, as those of an orthogonal basis do.
    return {name: tensor.cpu().clone().contiguous() for name, tensor in found.items() if tensor is not None}


def _read_sweep_head(path: Path, head: LmHead, device: torch.device) -> SweepHead:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        method = Method(file.metadata()["method"])
    center, constant = (tensors.pop(name).to(device) for name in ("center", "constant"))
    basis = Basis(method, **tensors)
    return SweepHead(basis, basis.columns(head.weight.to(device)), center, constant, head)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
