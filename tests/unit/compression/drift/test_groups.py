"""Windows of labelled groups, drift of each, and the gap between them, on numbers that can be checked by hand."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import headroom  # noqa: F401  # registers the format
from service.compression.drift.groups import drift_by_group, group_drift, small_groups
from service.compression.drift.token_drift import TokenDrift
from service.compression.text.corpus import Frame, Text, WindowSettings
from service.compression.text.grouped_windows import MOST_GROUPS, grouped_windows, read_groups
from service.foundation.errors import CorpusNotText, CorpusTooShort
from service.ports.engine import CorpusFile, EngineOutcome, EngineTask, Verdict
from tests.factories import make_recipe
from tests.tiny_models import make_text, make_tokenizer

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]
SETTINGS = WindowSettings(window=16, calibration_tokens=512, evaluation_tokens=1024, seed=0)


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_every_window_holds_text_of_one_group_alone(tmp_path: Path) -> None:
    lines = [{"text": "abc"[number % 3] * 40, "kind": "abc"[number % 3]} for number in range(90)]
    text = Text(write_lines(tmp_path / "c.jsonl", lines), "jsonl", None, "kind")
    tokenizer = make_tokenizer()
    windows, groups = grouped_windows(tokenizer, read_groups(text, SETTINGS), SETTINGS, Frame())
    assert windows.split == "document"
    assert set(groups) == {"a", "b", "c"}
    for row, group in zip(windows.evaluation, groups, strict=True):
        assert set(tokenizer.decode(row, skip_special_tokens=True)) == {group}
    assert windows.evaluation.shape[0] <= 1024 // 16
    assert windows.calibration.shape[0] <= 512 // 16
    assert max(map(groups.count, "abc")) - min(map(groups.count, "abc")) <= 1


def test_a_group_of_one_window_is_evaluated_and_a_shorter_one_left_out() -> None:
    texts = {"long": ["x" * 400], "one": ["y" * 20], "short": ["z" * 3]}
    windows, groups = grouped_windows(make_tokenizer(), texts, SETTINGS, Frame())
    assert set(groups) == {"long", "one"}
    assert groups.count("one") == 1
    assert windows.calibration.shape[0] > 0
    with pytest.raises(CorpusTooShort, match="no group"):
        grouped_windows(make_tokenizer(), {"one": ["y" * 20]}, SETTINGS, Frame())


def test_a_field_with_many_values_or_none_is_refused(tmp_path: Path) -> None:
    many = [{"text": "words", "id": str(number)} for number in range(MOST_GROUPS + 1)]
    with pytest.raises(CorpusNotText, match="sorts texts into few"):
        read_groups(Text(write_lines(tmp_path / "many.jsonl", many), "jsonl", None, "id"), SETTINGS)
    with pytest.raises(CorpusNotText, match=r"line 1 .* 'kind'"):
        read_groups(Text(tmp_path / "many.jsonl", "jsonl", None, "kind"), SETTINGS)


def test_the_gap_is_that_between_the_groups_furthest_apart_with_its_interval() -> None:
    random = np.random.default_rng(0)
    means, lengths = {"a": 0.01, "b": 0.03, "c": 0.07}, torch.full((90,), 10)
    groups = [name for name in means for _ in range(30)]
    growth = np.concatenate([random.normal(10 * mean, 0.2, 30) for mean in means.values()])
    base = torch.tensor(random.normal(50, 5, 90))
    found = group_drift(torch.stack([base + torch.tensor(growth), base], 1), lengths, groups, [4, 8], seed=0)
    gap = found.gap(4)
    assert gap is not None
    assert (gap.most, gap.least) == ("c", "a")
    by_hand = {name: math.expm1(growth[30 * i : 30 * i + 30].sum() / 300) for i, name in enumerate(means)}
    assert gap.gap == pytest.approx(by_hand["c"] - by_hand["a"])
    # Normal theory, independently of any resampling: each mean has deviation 0.2 / sqrt(30) / 10 nats.
    spread = 1.96 * 0.02 / math.sqrt(30) * math.hypot(1 + by_hand["a"], 1 + by_hand["c"])
    assert gap.high - gap.gap == pytest.approx(spread, rel=0.3)
    assert gap.gap - gap.low == pytest.approx(spread, rel=0.3)


def test_nothing_removed_leaves_no_gap_and_one_group_has_none() -> None:
    likelihood, lengths = torch.rand(20, 1).double().expand(20, 2), torch.full((20,), 5)
    gap = group_drift(likelihood, lengths, ["a", "b"] * 10, [4, 8], seed=0).gap(4)
    assert gap is not None
    assert (gap.gap, gap.low, gap.high) == (0.0, 0.0, 0.0)
    assert group_drift(likelihood, lengths, ["a"] * 20, [4, 8], seed=0).gap(4) is None
    assert "one group" in small_groups(["a"] * 20)[0]


def test_figures_of_a_group_are_those_of_its_windows_alone() -> None:
    window = torch.arange(6).repeat_interleave(4)
    before, kl = torch.rand(24).double(), torch.rand(24)
    drift = TokenDrift(window, torch.zeros(24).long(), before, before + 0.1 * (window % 2), kl, kl > 0.5, kl)
    even, odd = drift_by_group(drift, ["even", "odd"] * 3, seed=0)
    assert (even.group, even.windows, even.positions) == ("even", 3, 12)
    assert even.perplexity_drift == 0.0
    assert odd.perplexity_drift == pytest.approx(math.expm1(0.1))
    assert odd.kl_mean == pytest.approx(float(kl[window % 2 == 1].mean()))
    assert "even, odd" in small_groups(["even", "odd"] * 3)[0]


@pytest.fixture
def make_grouped_task(make_task: MakeTask, tmp_path: Path) -> MakeTask:
    """Two groups, words and letters of another range, in one corpus."""

    def make(**fields: Any) -> EngineTask:
        words = [{"text": line, "kind": "words"} for line in make_text(6000).splitlines()]
        rare = ["".join(chr(65 + (7 * i * i + 3 * j + i) % 58) for i in range(80)) for j in range(60)]
        lines = [*words, *({"text": line, "kind": "letters"} for line in rare)]
        task = make_task(options={"group_field": "kind"} | fields.pop("options", {}), **fields)
        return replace(task, corpora=(CorpusFile(write_lines(tmp_path / "groups.jsonl", lines), "jsonl", None),))

    return make


def test_a_job_reports_its_groups_and_the_gap_as_stored(make_grouped_task: MakeTask, run: Run) -> None:
    outcome = run(make_grouped_task())
    assert outcome.verdict is Verdict.PUBLISH
    letters, words = outcome.report["groups"]
    assert (letters["group"], words["group"]) == ("letters", "words")
    assert letters["positions"] + words["positions"] == outcome.report["corpus"]["evaluation_tokens"]
    assert [one["outside_share"] for one in outcome.report["corpora"]] == [None]  # nothing to compare it with
    gap = outcome.report["group_gap"]
    apart = abs(letters["perplexity_drift"] - words["perplexity_drift"])
    assert gap["gap"] == pytest.approx(apart, abs=1e-3)
    assert gap["low"] <= gap["gap"] <= gap["high"]


def test_a_gap_over_its_budget_rejects_what_would_pass_without(make_grouped_task: MakeTask, run: Run) -> None:
    outcome = run(make_grouped_task(drift={"perplexity": 9.0, "kl": None, "group_gap": 1e-6}))
    assert outcome.verdict is Verdict.REJECT
    assert outcome.report["selected"]["perplexity_drift_high"] < 9.0
    assert outcome.report["group_gap"]["high"] > 1e-6
    assert run(make_grouped_task(drift={"perplexity": 9.0, "kl": None, "group_gap": 9.0})).verdict is Verdict.PUBLISH


def test_groups_need_json_lines(make_task: MakeTask, run: Run) -> None:
    with pytest.raises(CorpusNotText, match="JSON lines"):
        run(make_task(options={"group_field": "kind"}))


def test_a_budget_on_the_gap_needs_groups() -> None:
    with pytest.raises(ValidationError, match="group_field"):
        make_recipe(drift={"group_gap": 0.01})
