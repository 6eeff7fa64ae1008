"""A job that is spread over shards gives the figures of one that is not, whoever does which shard."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.compression.jobs.sharded_source import ShardHelper, open_spread_source
from service.compression.states.hidden_cache import HiddenCache
from service.compression.states.source import open_source
from service.foundation.errors import CorruptCheckpoint, InternalError
from service.ports.engine import EngineOutcome, EngineTask, ShardWork, Verdict
from service.records.shards import Question, cache_name, ranges
from tests.reports import assert_same_figures

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]

CPU = torch.device("cpu")


class Pool:
    """A ports.ShardPool in one process. `helped`: shards of these numbers go to another worker, with its own cache."""

    losses = 0

    def __init__(self, task: EngineTask, folder: Path, shards: int, helped: tuple[int, ...] = ()) -> None:
        folder.mkdir()
        self.shards = shards
        self.asked: list[tuple[Question, int]] = []
        self._folder = folder
        self._helped = helped
        self._helper = ShardHelper(replace(task, cache_dir=folder / "cache"), self.get)

    def get(self, name: str) -> Path | None:
        return self._folder / name if (self._folder / name).exists() else None

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        if self.get(name) is None:
            write(self._folder / name)

    def answer(self, question: Question, count: int, work: ShardWork, progress: Callable[[float], None]) -> list[Path]:
        self.asked.append((question, count))
        answers = [self._folder / f"answer-{len(self.asked)}-{number}" for number in range(count)]
        for number, into in enumerate(answers):
            if number in self._helped:
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
    assert {count for _, count in pool.asked} == {min(shards, 10)}  # calibration windows
    assert_same_figures(spread.report, whole.report)


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
    monkeypatch.setattr("service.compression.jobs.sharded_source.read_windows", None)
    monkeypatch.setattr("service.compression.jobs.sharded_source.load_backbone", None)
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
