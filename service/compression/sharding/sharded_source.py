"""A corpus whose windows are shared out among workers: each shard is encoded, summed and swept where its hidden states
are, and what comes back is small. Merged, the figures are those of one worker up to the rounding of sums.

What a shard answers to "encode": the statistics of its calibration windows, which add up. To "sweep" and "validate":
the figures of each of its evaluation positions. Whoever does a shard keeps its hidden states in the cache of that
machine. Where the job's own worker reads all of them, they are handed over; what nobody hands over it encodes again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from headroom.contract.job_recipe import JobRecipe
from service.compression.drift.sweep import Positions, SweepHead
from service.compression.sharding.shard_reader import ShardReader, write_windows
from service.compression.sharding.shard_work import (
    encode_shard,
    hand_over_states,
    sweep_head_file,
    sweep_shard,
)
from service.compression.states.hidden_cache import HiddenCache, HiddenStates, Spread
from service.compression.states.source import (
    FingerprintInput,
    Source,
    cache_key,
    check_numbers,
    file_digest,
    inspect_with_tokenizer,
    read_windows,
    stored_names,
)
from service.compression.states.statistics import Statistics
from service.compression.text.corpus import Text
from service.compression.text.reading import reading_of
from service.models.model_files import digest_model
from service.ports.engine import EngineTask, ShardPool
from service.records.shards import AskedWindows, EncodeQuestion, StatesQuestion, SweepQuestion


@dataclass(frozen=True, eq=False)
class ShardedHiddenStates(HiddenStates):
    """`file` holds the windows. Read as a whole (`blocks`), what other machines encoded is fetched from them."""

    reader: ShardReader
    pool: ShardPool
    asked: AskedWindows
    part: str
    first_rows: Tensor  # (<= FIRST_ROWS, hidden)

    def first(self, rows: int) -> Tensor:
        return self.first_rows[:rows] if rows <= self.first_rows.shape[0] else super().first(rows)

    def blocks(self, rows: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
        pending = torch.empty(0, self.hidden_size, dtype=self.dtype)
        handed_over = self._handed_over()
        for number in range(self.asked.shards):
            here = handed_over.get(number) or self.reader.hidden(self.asked, number, self.part)
            for block in here.blocks(rows):
                pending = torch.cat([pending, block])
                while pending.shape[0] >= rows:
                    yield pending[:rows].to(device, copy=True)
                    pending = pending[rows:]
        if pending.shape[0]:
            yield pending.to(device, copy=True)
        self.reader.forget_model()

    def _handed_over(self) -> dict[int, HiddenStates]:
        """By the number of the shard: what this machine's cache lacks, from those who have it. Bytes, not a pass."""
        asked = self.asked
        numbers = tuple(number for number in range(asked.shards) if not self.reader.has(asked, number))
        if not numbers:
            return {}
        question = StatesQuestion(**vars(asked), part=self.part, numbers=numbers)

        def work(number: int, into: Path, tell: Callable[[float], None]) -> None:
            hand_over_states(self.reader, question, number, into, tell)

        answers = self.pool.answer(question, len(numbers), work, lambda done: None)
        return {
            number: HiddenStates(answer, self.dtype, self.hidden_size, self.reader.examples(asked, number, self.part))
            for number, answer in zip(numbers, answers, strict=True)
        }

    @property
    def spread(self) -> Spread:
        return self._sweep

    def _sweep(
        self, head: SweepHead, sizes: list[int], top: int, progress: Callable[[float], None]
    ) -> Iterator[Positions]:
        """The positions of all shards, in order."""
        name, write = sweep_head_file(head)
        self.pool.put(name, write)
        question = SweepQuestion(**vars(self.asked), head=name, sizes=tuple(sizes), top=top)

        def work(number: int, into: Path, tell: Callable[[float], None]) -> None:
            sweep_shard(self.reader, question, number, head, into, tell)

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
        pool.put(name, lambda path: write_windows(path, parts, meta | {"auto_class": reading.auto_class}))
    file = pool.get(name)
    assert file is not None, "what was put can be read"
    reader = ShardReader(task, inspection, file, device, model)
    shards = min(pool.shards, *(len(examples) for examples in reader.parts.values()))
    asked = EncodeQuestion(windows=name, shards=shards, model=digest, revision=task.model.revision)

    def work(number: int, into: Path, tell: Callable[[float], None]) -> None:
        encode_shard(reader, asked, number, into, tell)

    answers = pool.answer(asked, shards, work, progress)
    del model
    reader.forget_model()
    summed, first, was_warm = _merged(answers)
    check_numbers(summed)

    def spread(part: str, first_rows: Tensor) -> ShardedHiddenStates:
        return ShardedHiddenStates(
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
