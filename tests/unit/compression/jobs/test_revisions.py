"""Further points of the curve: whole checkpoints, measured, which share what they do not change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from service.compression.jobs import revisions
from service.foundation.errors import RatioTooSmall, StoredMismatch
from service.ports.engine import EngineOutcome, EngineTask, Verdict

Make = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]
POINTS = {"options": {"publish_ratios": [0.25, 0.75], "compare": []}}


def load(folder: Path) -> Any:
    import transformers

    import headroom  # noqa: F401  # registers the format

    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load(folder)(torch.arange(8)[None]).logits


@pytest.mark.parametrize(("tied", "method"), [(False, "slope"), (True, "probability")])
def test_each_point_is_the_checkpoint_that_a_job_for_it_alone_would_store(
    make_task: Make, run: Run, tied: bool, method: str
) -> None:
    task = make_task({"family": "llama", "tied": tied}, ratio=0.5, method=method, **POINTS)
    outcome = run(task)
    points = outcome.report["revisions"]
    assert [point["ratio"] for point in points] == [0.25, 0.75]
    assert list(outcome.revisions) == [f"revisions/k{point['kept_columns']}" for point in points]
    point = points[1]
    found, body = (
        logits(task.staging / point["path"]),
        {path.stat().st_ino for path in task.staging.glob("*.safetensors")},
    )
    own = [path.stat() for path in (task.staging / point["path"]).iterdir() if path.stat().st_ino not in body]
    assert point["added_bytes"] == sum(file.st_size for file in own)
    assert len(own) == len(list((task.staging / point["path"]).iterdir())) - 1  # the body is a file of the chosen one
    shared = [path for path in outcome.hashes if path.endswith("00002-of-00002.safetensors")]
    assert len({outcome.hashes[path].sha256 for path in shared}) == 1
    assert len(shared) == 3

    told = outcome.revisions[point["path"]]
    alone = run(make_task(None, ratio=0.75, method=method, options={"compare": []}))
    assert told["selected"] == alone.report["selected"]
    assert told["stored"]["perplexity"] == pytest.approx(alone.report["stored"]["perplexity"], rel=1e-6)
    assert told["bytes"] == alone.report["bytes"]
    assert torch.equal(found, logits(task.staging))


def test_a_point_outside_the_budget_is_stored_and_says_so(make_task: Make, run: Run) -> None:
    curve = run(make_task({"family": "llama", "tied": False}, ratio=0.5, options={"compare": []})).report["curve"]
    near, far = curve[0], curve[-1]
    budget = {"perplexity": 9.0, "kl": (near["kl_mean"] * far["kl_mean"]) ** 0.5}
    options = {"publish_ratios": [far["ratio"]], "compare": []}
    outcome = run(make_task(None, ratio=near["ratio"], drift=budget, options=options))
    assert outcome.verdict is Verdict.PUBLISH
    assert outcome.report["selected"]["passes"] is True
    (point,) = outcome.report["revisions"]
    assert (point["kept_columns"], point["passes"]) == (far["kept_columns"], False)
    assert outcome.revisions[point["path"]]["selected"]["passes"] is False


def test_a_point_that_is_the_chosen_one_is_not_stored_twice(make_task: Make, run: Run) -> None:
    task = make_task(None, ratio=0.5, options={"publish_ratios": [0.5], "compare": []})
    outcome = run(task)
    assert (outcome.revisions, outcome.report["revisions"]) == ({}, [])
    assert not (task.staging / "revisions").exists()


def test_a_rejected_job_stores_no_points(make_task: Make, run: Run) -> None:
    task = make_task(None, ratio=0.5, drift={"perplexity": 9.0, "kl": 1e-9}, **POINTS)
    outcome = run(task)
    assert outcome.verdict is Verdict.REJECT
    assert (outcome.revisions, list(task.staging.iterdir())) == ({}, [])


def test_a_point_that_removes_nothing_is_refused_before_any_work(make_task: Make, run: Run) -> None:
    with pytest.raises(RatioTooSmall):
        run(make_task(None, ratio=0.5, options={"publish_ratios": [0.001]}))


def test_a_point_that_storing_changed_is_left_out_and_the_others_stay(
    make_task: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = revisions.Storing.measure

    def mismatched(self: Any, written: Any, folder: Path, *args: Any, **asked: Any) -> Any:
        if folder.parent.name == "revisions" and written.candidate.unrounded[0].ratio == 0.25:
            raise StoredMismatch("it differs")
        return measure(self, written, folder, *args, **asked)

    monkeypatch.setattr(revisions.Storing, "measure", mismatched)
    task = make_task(None, ratio=0.5, **POINTS)
    outcome = run(task)
    assert outcome.verdict is Verdict.PUBLISH
    assert len(outcome.revisions) == 1
    assert [path.name for path in (task.staging / "revisions").iterdir()] == [outcome.report["revisions"][0]["name"]]
    assert any("was left out: it differs" in warning for warning in outcome.report["warnings"])


@pytest.mark.parametrize("options", [{"head_dtype": "int8", "refine": True}, {"keep_removed": True}])
def test_points_are_rounded_refined_and_kept_as_the_chosen_one(
    make_task: Make, run: Run, options: dict[str, Any]
) -> None:
    asked = POINTS["options"] | options | {"publish_ratios": [0.25]}
    task = make_task({"family": "llama", "tied": False}, ratio=0.5, options=asked)
    outcome = run(task)
    (path,) = outcome.revisions
    told = outcome.revisions[path]
    assert told["head_dtype"] == options.get("head_dtype", "source")
    assert (told["refinement"] is not None) is ("refine" in options)
    assert (task.staging / path / "restore.safetensors").exists() is ("keep_removed" in options)
    load(task.staging / path)
