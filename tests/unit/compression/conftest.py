import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headroom.contract.compress import CompressRecipe
from headroom.contract.report.report import unknown_fields
from service.ports.engine import CorpusFile, EngineOutcome, EngineTask
from service.ports.models import LocalModel
from tests.factories import CORPUS_ID, ENGINE_DEVICE, make_recipe
from tests.reports import as_stored
from tests.tiny_models import make_text, make_tiny_checkpoint

OPTIONS = {"window": 32, "calibration_tokens": 1024, "evaluation_tokens": 1024, "continuations": 0}


def task_maker(folder: Path) -> Callable[..., EngineTask]:
    """Makes tasks on a tiny checkpoint in `folder`. `model` fields go to make_tiny_checkpoint, others to the recipe.

    `texts`: further corpora, by name; their budgets come with `budgets`.
    """

    def make(
        model: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        texts: dict[str, str] | None = None,
        budgets: dict[str, Any] | None = None,
        **recipe: Any,
    ) -> EngineTask:
        source = folder / "model"
        if not source.exists():
            make_tiny_checkpoint(source, **(model or {}))
        corpus = folder / "corpus.txt"
        corpus.write_text(make_text())
        staging = folder / "staging"
        staging.mkdir(exist_ok=True)
        for stale in staging.iterdir():
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        others = [{"name": name, "corpus": CORPUS_ID, "drift": (budgets or {}).get(name)} for name in texts or {}]
        for name, text in (texts or {}).items():
            (folder / name).write_text(text)
        files = tuple(CorpusFile(folder / name, "text", None) for name in texts or {})
        fields = {
            "evaluation": others,
            "drift": {"perplexity": 9.0, "kl": None},
            "options": OPTIONS | (options or {}),
        } | recipe
        validated: CompressRecipe = make_recipe(**fields)
        local = LocalModel("acme/tiny", None, source)
        corpora = (CorpusFile(corpus, "text", None), *files)
        return EngineTask("job_t", validated, (local,), corpora, folder / "cache", staging, ENGINE_DEVICE)

    return make


def run_and_check(task: EngineTask) -> EngineOutcome:
    from service.compression.jobs.compress import compress

    outcome = compress(task, lambda phase, fraction: None)
    for report in (outcome.report, *outcome.revisions.values()):
        assert list(unknown_fields(report)) == [], "headroom/contract/report/ does not know these"
    return as_stored(outcome)


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., EngineTask]:
    return task_maker(tmp_path)


@pytest.fixture
def run() -> Callable[[EngineTask], EngineOutcome]:
    return run_and_check


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[EngineTask, EngineOutcome]]:
    """A task and its outcome by the fields that `make_task` takes, run once for all tests of a file: they only read."""
    known: dict[str, tuple[EngineTask, EngineOutcome]] = {}

    def done_once(**fields: Any) -> tuple[EngineTask, EngineOutcome]:
        key = repr(fields)
        if key not in known:
            task = task_maker(tmp_path_factory.mktemp("done"))(**fields)
            known[key] = task, run_and_check(task)
        return known[key]

    return done_once


@pytest.fixture(scope="module", autouse=True)
def _frozen_heap() -> None:
    """A job collects garbage; it need not look each time through all that the tests before it have imported."""
    gc.collect()
    gc.freeze()
