"""A loaded head read with another number of columns is the head that a job at that size would have stored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import headroom
from headroom.errors import InvalidArgument
from headroom.loading.column_prefix import largest_kept_columns
from service.compression.jobs.compress import compress
from service.ports.engine import CorpusFile, EngineTask
from service.ports.models import LocalModel
from tests.factories import make_recipe
from tests.tiny_models import make_text, make_tiny_checkpoint

OPTIONS = {"window": 32, "calibration_tokens": 2048, "evaluation_tokens": 512, "compare": []}
IDS = torch.arange(3, 40).reshape(1, -1)
Store = Callable[..., Path]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Folder of a checkpoint stored at a ratio; each combination is made once."""
    root = tmp_path_factory.mktemp("stored")
    made: dict[tuple[Any, ...], Path] = {}
    (root / "corpus.txt").write_text(make_text())

    def make(family: str, method: str, ratio: float, repair: str = "mean") -> Path:
        key = (family, method, ratio, repair)
        if key not in made:
            source = root / family
            if not source.exists():
                make_tiny_checkpoint(source, family=family, tied=family == "gpt2")
            folder = root / "-".join(map(str, key))
            folder.mkdir()
            fields = {"method": method, "ratio": ratio, "drift": {"perplexity": 9.0, "kl": None}}
            recipe = make_recipe(**fields, options=OPTIONS | {"repair": repair, "column_multiple": 1})
            local = LocalModel("acme/tiny", None, source)
            task = EngineTask(
                "job_t",
                recipe,
                (local,),
                (CorpusFile(root / "corpus.txt", "text", None),),
                root / "cache",
                folder,
                "cpu",
            )
            compress(task, lambda phase, fraction: None)
            made[key] = folder
        return made[key]

    return make


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto").eval()


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(IDS).logits
    return logits


@pytest.mark.parametrize("repair", ["mean", "none"])
@pytest.mark.parametrize("method", ["probability", "slope"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_fewer_columns_give_what_a_job_at_that_size_stores(store: Store, family: str, method: str, repair: str) -> None:
    wide, narrow = load(store(family, method, 0.25, repair)), load(store(family, method, 0.5, repair))

    headroom.set_kept_columns(wide, headroom.kept_columns(narrow))

    expected = logits_of(narrow)
    assert (logits_of(wide) - expected).abs().max() < 2e-4 * expected.abs().max()
    assert headroom.kept_columns(wide) == headroom.kept_columns(narrow)


@pytest.mark.parametrize("method", ["probability", "slope"])
def test_a_tied_head_reads_more_columns_than_were_kept(store: Store, method: str) -> None:
    wide, narrow = load(store("gpt2", method, 0.25)), load(store("gpt2", method, 0.5))

    headroom.set_kept_columns(narrow, headroom.kept_columns(wide))

    expected = logits_of(wide)
    assert (logits_of(narrow) - expected).abs().max() < 2e-4 * expected.abs().max()


@pytest.mark.parametrize("method", ["probability", "slope"])
def test_a_tied_head_with_all_columns_is_the_original_head(store: Store, method: str) -> None:
    folder = store("gpt2", method, 0.5)
    model = load(folder)

    headroom.set_kept_columns(model, largest_kept_columns(model))

    original = AutoModelForCausalLM.from_pretrained(folder.parent / "gpt2", local_files_only=True, dtype="auto").eval()
    expected = logits_of(original)
    assert (logits_of(model) - expected).abs().max() < 2e-4 * expected.abs().max()


def test_going_back_to_the_stored_size_is_exact(store: Store) -> None:
    model = load(store("gpt2", "probability", 0.5))
    before, kept = logits_of(model), headroom.kept_columns(model)

    headroom.set_kept_columns(model, 3)
    assert not torch.equal(logits_of(model), before)
    headroom.set_kept_columns(model, kept)

    assert torch.equal(logits_of(model), before)


def test_a_model_that_was_set_to_fewer_columns_is_saved_as_it_was_stored(store: Store, tmp_path: Path) -> None:
    model = load(store("gpt2", "probability", 0.5))
    before = logits_of(model)

    headroom.set_kept_columns(model, 3)
    model.save_pretrained(tmp_path / "again")

    assert torch.equal(logits_of(load(tmp_path / "again")), before)


def test_a_sixteen_bit_copy_reads_fewer_columns_too(store: Store) -> None:
    wide, narrow = load(store("llama", "probability", 0.25)), load(store("llama", "probability", 0.5))
    headroom.set_kept_columns(wide.bfloat16(), headroom.kept_columns(narrow))

    expected = logits_of(narrow)
    assert (logits_of(wide).float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("kept", [0, 10_000])
def test_a_number_that_is_not_held_is_refused(store: Store, kept: int) -> None:
    with pytest.raises(InvalidArgument, match="can read 1 to"):
        headroom.set_kept_columns(load(store("gpt2", "slope", 0.5)), kept)


def test_an_untied_head_holds_no_more_than_was_stored(store: Store) -> None:
    model = load(store("llama", "probability", 0.5))

    with pytest.raises(InvalidArgument, match="the others were not stored"):
        headroom.set_kept_columns(model, headroom.kept_columns(model) + 1)


def test_a_plain_model_is_refused(store: Store) -> None:
    folder = store("gpt2", "slope", 0.5).parent / "gpt2"

    with pytest.raises(InvalidArgument, match="not one that headroom sliced"):
        headroom.set_kept_columns(load(folder), 4)


def test_a_monitor_measures_the_divergence_from_the_full_head(store: Store) -> None:
    model = load(store("gpt2", "slope", 0.5, "none"))
    original = load(store("gpt2", "slope", 0.5).parent / "gpt2")
    with headroom.monitor(model, sample_rate=1.0) as watch:
        served = logits_of(model)[0]

    full = logits_of(original)[0]
    kl = torch.nn.functional.kl_div(served.log_softmax(-1), full.log_softmax(-1), log_target=True, reduction="none")
    assert watch.stats.positions == IDS.numel()
    assert watch.stats.kl_mean == pytest.approx(float(kl.sum(-1).mean()), rel=1e-3)
    assert watch.stats.top1_agreement == pytest.approx(float((served.argmax(-1) == full.argmax(-1)).float().mean()))


def test_a_monitor_samples_about_its_share_of_positions_and_the_same_ones_again(store: Store) -> None:
    model = load(store("gpt2", "slope", 0.5))
    counts = []
    for _ in range(2):
        with headroom.monitor(model, sample_rate=0.1, seed=1) as watch:
            for _ in range(40):
                logits_of(model)
        counts.append((watch.stats.positions, watch.stats.kl_mean))

    assert counts[0] == counts[1]
    assert 100 < counts[0][0] < 200  # of 1,480


def test_an_alarm_raises_the_columns_until_the_drift_is_inside(store: Store) -> None:
    model = load(store("gpt2", "slope", 0.5, "none"))
    headroom.set_kept_columns(model, 2)
    alarms: list[headroom.Stats] = []
    with headroom.monitor(
        model, sample_rate=1.0, kl_budget=1e-6, window=16, on_alarm=alarms.append, adjust=True
    ) as watch:
        for _ in range(30):
            logits_of(model)

    assert alarms
    assert [one.kept_columns for one in alarms] == sorted({one.kept_columns for one in alarms})
    assert headroom.kept_columns(model) == largest_kept_columns(model)
    assert watch.stats.kl_recent == pytest.approx(0.0, abs=1e-6)


def test_a_closed_monitor_no_longer_counts(store: Store) -> None:
    model = load(store("gpt2", "slope", 0.5))
    watch = headroom.monitor(model, sample_rate=1.0)
    watch.close()
    logits_of(model)

    assert watch.stats.positions == 0
    assert watch.stats.kl_mean is None


def test_an_untied_model_is_watched_with_the_original_matrix_or_not_at_all(store: Store) -> None:
    folder = store("llama", "probability", 0.5)
    model, original = load(folder), load(folder.parent / "llama")
    with pytest.raises(InvalidArgument, match="give the original"):
        headroom.monitor(model)
    with headroom.monitor(model, sample_rate=1.0, full_weight=original.lm_head.weight) as watch:
        logits_of(model)

    assert watch.stats.kl_mean is not None
    assert 0 <= watch.stats.kl_mean < 1


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_a_sample_rate_that_is_none_is_refused(store: Store, rate: float) -> None:
    with pytest.raises(InvalidArgument, match="sample rate"):
        headroom.monitor(load(store("gpt2", "slope", 0.5)), rate)
