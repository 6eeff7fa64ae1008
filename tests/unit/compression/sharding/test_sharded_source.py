"""A job that is spread over shards gives the figures of one that is not, whoever does which shard."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.compression.checkpoint.validation import load_stored
from service.compression.sharding.shard_helper import ShardHelper
from service.compression.sharding.sharded_source import open_spread_source
from service.compression.states.hidden_cache import HiddenCache
from service.compression.states.source import open_source
from service.foundation.errors import CorruptCheckpoint, InternalError
from service.ports.engine import EngineOutcome, EngineTask, ShardWork, Verdict
from service.records.shards import Question, cache_name, operation_of, ranges, windows_number
from tests.reports import assert_same_figures

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]

CPU = torch.device("cpu")


class Pool:
    """A ports.ShardPool in one process.

    helped: shards of these numbers go to another worker, with its own cache, which it keeps for all questions about
    them; shares: whether that worker sees the stored checkpoint.
    """

    losses = 0

    def __init__(
        self, task: EngineTask, folder: Path, shards: int, helped: tuple[int, ...] = (), shares: bool = True
    ) -> None:
        folder.mkdir()
        self.shards = shards
        self.asked: list[tuple[Question, int]] = []
        self.shared: list[str] = []
        self.shares = shares
        self._folder = folder
        self._helped = helped
        elsewhere = replace(task, cache_dir=folder / "cache", staging=folder / "staging")
        self._helper = ShardHelper(elsewhere, self.get)

    def get(self, name: str) -> Path | None:
        return self._folder / name if (self._folder / name).exists() else None

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        if self.get(name) is None:
            write(self._folder / name)

    def share(self, name: str, file: Path) -> bool:
        if not self.shares:
            return False
        (self._folder / name).symlink_to(file)
        self.shared.append(name)
        return True

    def drop(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def answer(self, question: Question, count: int, work: ShardWork, progress: Callable[[float], None]) -> list[Path]:
        self.asked.append((question, count))
        answers = [self._folder / f"answer-{len(self.asked)}-{number}" for number in range(count)]
        for number, into in enumerate(answers):
            if windows_number(question, number) in self._helped:
                self._helper.work(question, number, into, progress)
            else:
                work(number, into, progress)
        return answers


@pytest.mark.parametrize(
    ("shards", "helped", "dtype"),
    [(3, (), torch.float32), (5, (1, 2, 4), torch.bfloat16), (64, (0,), torch.float32)],
    ids=["alone", "helped", "more than windows"],
)
def test_a_spread_job_reports_the_figures_of_one_that_is_not(
    make_task: MakeTask, run: Run, tmp_path: Path, shards: int, helped: tuple[int, ...], dtype: torch.dtype
) -> None:
    options = {"window": 32, "calibration_tokens": 320, "evaluation_tokens": 416, "head_dtype": "source"}
    fields = {"ratio": "auto", "options": options, "drift": {"perplexity": 0.05, "kl": None}, "model": {"dtype": dtype}}
    whole = run(make_task(**fields))
    again = make_task(**fields)
    pool = Pool(again, tmp_path / "pool", shards, helped)
    spread = run(replace(again, pool=pool, cache_dir=tmp_path / "parent"))

    assert whole.verdict is spread.verdict is Verdict.PUBLISH
    asked = {operation_of(question): count for question, count in pool.asked}
    lacking = {"hand_over": len(helped)} if helped else {}
    everywhere = min(shards, 10)  # calibration windows
    assert asked == dict.fromkeys(("encode", "sweep", "validate"), everywhere) | lacking
    assert_same_figures(spread.report, whole.report)
    assert pool.shared
    assert not any((tmp_path / "pool" / name).exists() for name in pool.shared)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "fisher"},
        {"options": {"refine": True}},
        {"budget": {"head_bytes": 0.4}},
        {"ratio": 0, "options": {"head_dtype": "planes"}},
    ],
)
def test_what_reads_all_hidden_states_reads_them_where_the_job_is(
    make_task: MakeTask, run: Run, tmp_path: Path, fields: dict[str, Any]
) -> None:
    fields = {"ratio": "auto"} | fields if "budget" in fields else fields
    whole = run(make_task(**fields))
    again = make_task(**fields)
    pool = Pool(again, tmp_path / "pool", 3, helped=(0, 2))
    spread = run(replace(again, pool=pool, cache_dir=tmp_path / "parent"))
    assert whole.verdict is spread.verdict is Verdict.PUBLISH
    assert spread.report["selected"]["perplexity"] == pytest.approx(whole.report["selected"]["perplexity"], rel=1e-3)


class LosingPool(Pool):
    """Loses a shard, and has it done again, whenever a stored checkpoint is validated."""

    def answer(self, question: Question, count: int, work: ShardWork, progress: Callable[[float], None]) -> list[Path]:
        self.losses += operation_of(question) == "validate"
        return super().answer(question, count, work, progress)


def test_a_shard_that_is_lost_while_validating_is_in_the_report(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    task = make_task()
    spread = run(replace(task, pool=LosingPool(task, tmp_path / "pool", 3, helped=(1,)), cache_dir=tmp_path / "parent"))
    assert spread.report["shards"] == {"asked": 3, "lost": 1}


@pytest.mark.parametrize("shares", [True, False], ids=["shared directory", "object store"])
@pytest.mark.parametrize("fields", [{}, {"method": "fisher"}], ids=["default", "reads calibration"])
def test_the_jobs_own_worker_encodes_its_own_shards_once_and_no_window_of_another(
    make_task: MakeTask, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: bool, fields: dict[str, Any]
) -> None:
    encoded: dict[Path, int] = {}
    fill = HiddenCache.fill

    def counting(cache: HiddenCache, key: str, model: Any, parts: dict[str, Any], *rest: Any) -> None:
        encoded[cache.root] = encoded.get(cache.root, 0) + sum(map(len, parts.values()))
        fill(cache, key, model, parts, *rest)

    monkeypatch.setattr(HiddenCache, "fill", counting)
    task = make_task(**fields)
    whole = run(replace(task, cache_dir=tmp_path / "whole"))
    again = make_task(**fields)
    pool = Pool(again, tmp_path / "pool", 4, helped=(0, 2, 3), shares=shares)
    spread = run(replace(again, pool=pool, cache_dir=tmp_path / "parent"))

    assert_same_figures(spread.report, whole.report)
    all_windows = encoded.pop(tmp_path / "whole" / "hidden_states")
    own, others = encoded[tmp_path / "parent" / "hidden_states"], encoded[tmp_path / "pool" / "cache" / "hidden_states"]
    assert own + others == all_windows
    assert 0 < own <= -(-all_windows // 4) + 1
    validated = "validate" in {operation_of(question) for question, _ in pool.asked}
    assert validated == shares


def test_a_checkpoint_in_several_files_is_measured_where_they_lie_by_every_worker(
    make_task: MakeTask, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[dict[str, bool]] = []

    def looking(folder: Path, *rest: Any) -> Any:
        read.append({path.name: path.is_symlink() for path in folder.glob("*.safetensors")})
        return load_stored(folder, *rest)

    monkeypatch.setattr("service.compression.jobs.storing.load_stored", looking)
    monkeypatch.setattr("service.compression.sharding.shard_helper.load_stored", looking)
    task = make_task(
        model={"family": "llama", "hidden_size": 256, "intermediate_size": 512}, options={"max_shard_bytes": 1_000_000}
    )
    pool = Pool(task, tmp_path / "pool", 2, helped=(1,))
    spread = run(replace(task, pool=pool, cache_dir=tmp_path / "parent"))
    assert spread.verdict is Verdict.PUBLISH
    (own, helper) = read
    assert len(own) > 1
    assert not any(own.values())
    assert helper == dict.fromkeys(own, True)  # links to the files of the job, not one copy
    on_disk = [path for path in (tmp_path / "pool").rglob("*.safetensors") if not path.is_symlink()]
    assert [path for path in on_disk if "hidden_states" not in path.parts] == []


def test_further_corpora_are_measured_as_without_shards(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    texts = {"other": "Rain fell on the hills all day, and the river rose. " * 60}
    whole = run(make_task(texts=texts))
    again = make_task(texts=texts)
    spread = run(replace(again, pool=Pool(again, tmp_path / "pool", 2, (1,)), cache_dir=tmp_path / "parent"))
    assert_same_figures(spread.report["corpora"][1], whole.report["corpora"][1])
    outside = [one["outside_share"] for one in spread.report["corpora"]]
    assert outside == pytest.approx([one["outside_share"] for one in whole.report["corpora"]], rel=1e-4)


def test_hidden_states_of_shards_are_those_of_the_whole_in_order(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    whole = open_source(task, CPU, lambda done: None)
    pool = Pool(task, tmp_path / "pool", 4, helped=(1, 3))
    spread = open_spread_source(replace(task, pool=pool, cache_dir=tmp_path / "parent"), CPU, lambda done: None)
    for one, other in ((whole.calibration, spread.calibration), (whole.evaluation, spread.evaluation)):
        blocks = list(other.blocks(100))
        assert [block.shape[0] for block in blocks] == [block.shape[0] for block in one.blocks(100)]
        torch.testing.assert_close(torch.cat(blocks), torch.cat(list(one.blocks(100))))
        assert torch.equal(other.windows, one.windows)
        assert torch.equal(other.first(16), torch.cat(blocks)[:16])


def test_a_second_attempt_reads_no_text_and_runs_no_backbone_again(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task()
    pool = Pool(task, tmp_path / "pool", 2)
    first = open_spread_source(replace(task, pool=pool), CPU, lambda done: None)
    monkeypatch.setattr("service.compression.sharding.sharded_source.read_windows", None)
    monkeypatch.setattr("service.compression.sharding.shard_reader.load_backbone", None)
    second = open_spread_source(replace(task, pool=pool), CPU, lambda done: None)
    assert not first.was_warm
    assert second.was_warm
    assert pool.asked[0] == pool.asked[1]


def test_a_worker_that_goes_on_with_a_shard_encodes_its_windows_again(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    pool = Pool(task, tmp_path / "pool", 2)
    open_spread_source(replace(task, pool=pool), CPU, lambda done: None)
    question, _ = pool.asked[0]
    elsewhere = replace(task, cache_dir=tmp_path / "elsewhere")
    ShardHelper(elsewhere, pool.get).work(question, 1, tmp_path / "answer", lambda done: None)
    cached = HiddenCache(tmp_path / "elsewhere" / "hidden_states")
    assert cached.is_whole(cache_name(question, 1))
    assert not cached.is_whole(cache_name(question, 0))


def test_a_worker_with_another_model_or_without_the_files_says_so(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    pool = Pool(task, tmp_path / "pool", 2)
    open_spread_source(replace(task, pool=pool), CPU, lambda done: None)
    question, _ = pool.asked[0]
    with pytest.raises(CorruptCheckpoint, match="other files"):
        ShardHelper(task, pool.get).work(replace(question, model="0"), 0, tmp_path / "a", lambda done: None)
    with pytest.raises(InternalError, match="share their storage"):
        ShardHelper(task, lambda name: None).work(question, 0, tmp_path / "a", lambda done: None)


@pytest.mark.parametrize(("count", "shards"), [(10, 1), (10, 3), (10, 10), (7, 2), (1, 1)])
def test_ranges_are_contiguous_even_and_whole(count: int, shards: int) -> None:
    parts = ranges(count, shards)
    numbers = list(range(count))
    assert [number for part in parts for number in numbers[part]] == numbers
    sizes = [part.stop - part.start for part in parts]
    assert len(sizes) == shards
    assert max(sizes) - min(sizes) <= 1
