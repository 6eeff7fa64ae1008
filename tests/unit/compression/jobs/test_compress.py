"""The whole engine on tiny random models: what is stored is what was measured, and loads the public way."""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

import headroom  # noqa: F401  # registers the format
from headroom.contract.compress import Method
from service.compression.states.hidden_cache import HiddenCache
from service.foundation.errors import (
    CorpusTooShort,
    CorruptCheckpoint,
    RatioTooSmall,
    StoredMismatch,
    UnsupportedHead,
    UnsupportedModel,
)
from service.models.model_files import inspect_model
from service.ports.engine import CorpusFile, EngineOutcome, EngineTask, Verdict
from service.ports.models import LocalModel
from service.reports.refusals import refusals
from service.reports.report_page import write_page
from tests.reports import measured

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[4]
MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]
Done = Callable[..., tuple[EngineTask, EngineOutcome]]

KINDS = [
    pytest.param({"family": "gpt2", "tied": True}, id="gpt2-tied"),
    pytest.param({"family": "llama", "tied": False}, id="llama-untied"),
    pytest.param({"family": "neox", "tied": False}, id="neox-untied"),  # its files name the head `embed_out`
]
LOAD_PLAIN = """
import sys
from transformers import AutoModelForCausalLM

for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except RuntimeError as error:
        print("mismatch" if "mismatch" in str(error) else error)
"""
DTYPES = [torch.float32, torch.bfloat16]


def plain_loop_perplexity(model: Any, windows: torch.Tensor) -> float:
    """The definition, slowly: full logits of one window at a time."""
    total, predicted = 0.0, 0
    for window in windows:
        with torch.no_grad():
            log_p = model(window[None]).logits[0, :-1].double().log_softmax(-1)
        total -= float(log_p[torch.arange(len(window) - 1), window[1:]].sum())
        predicted += len(window) - 1
    return math.exp(total / predicted)


def evaluation_windows(task: EngineTask) -> torch.Tensor:
    cache = HiddenCache(task.cache_dir / "hidden_states")
    (key,) = [folder.name for folder in cache.root.iterdir()]
    return cache.open(key, "evaluation").windows


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [Method.SLOPE, Method.PROBABILITY])
def test_stored_and_reported_perplexities_agree_with_a_plain_loop(
    done: Done, kind: dict[str, Any], dtype: torch.dtype, method: Method
) -> None:
    task, outcome = done(model=kind if dtype == torch.float32 else kind | {"dtype": dtype}, method=method.value)
    report = outcome.report
    windows = evaluation_windows(task)
    before = AutoModelForCausalLM.from_pretrained(task.model.path)
    after = AutoModelForCausalLM.from_pretrained(task.staging)
    assert after.dtype == dtype
    assert report["baseline"]["perplexity"] == pytest.approx(plain_loop_perplexity(before, windows), rel=1e-3)
    assert report["stored"]["perplexity"] == pytest.approx(plain_loop_perplexity(after, windows), rel=1e-3)
    assert report["selected"]["perplexity"] == pytest.approx(plain_loop_perplexity(after, windows), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", list(Method))
def test_every_method_stores_a_checkpoint_that_generates(done: Done, kind: dict[str, Any], method: Method) -> None:
    task, outcome = done(model=kind, method=method.value)
    assert outcome.verdict is Verdict.PUBLISH
    model = AutoModelForCausalLM.from_pretrained(task.staging)
    assert model.get_output_embeddings().weight.shape == (264, 16)
    tokens = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert tokens.shape[1] > 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [Method.SLOPE, Method.PROBABILITY])
def test_saving_and_loading_again_changes_no_logit(
    done: Done, tmp_path: Path, kind: dict[str, Any], method: Method
) -> None:
    task, _ = done(model=kind, method=method.value)
    model = AutoModelForCausalLM.from_pretrained(task.staging)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, again(ids).logits)
    with pytest.warns(UserWarning, match="bias"):
        model.dequantize()  # also after saving, which leaves the dtype's name in the config


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [Method.SLOPE, Method.PROBABILITY])
def test_dequantize_gives_a_plain_model_of_the_same_function(
    done: Done, tmp_path: Path, kind: dict[str, Any], method: Method
) -> None:
    task, _ = done(model=kind, method=method.value)
    ids = torch.arange(20)[None]
    sliced = AutoModelForCausalLM.from_pretrained(task.staging)
    before = sliced(ids).logits
    with pytest.warns(UserWarning, match="bias"):
        dense = sliced.dequantize()
    assert type(dense.get_output_embeddings()) is torch.nn.Linear
    torch.testing.assert_close(dense(ids).logits, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_without_repair_the_dense_model_can_be_saved_and_loaded_as_a_plain_one(
    make_task: MakeTask, run: Run, tmp_path: Path, kind: dict[str, Any]
) -> None:
    task = make_task(model=kind, options={"repair": "none"})
    run(task)
    sliced = AutoModelForCausalLM.from_pretrained(task.staging)
    ids = torch.arange(20)[None]
    before = sliced(ids).logits
    sliced.dequantize().save_pretrained(tmp_path / "dense")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    torch.testing.assert_close(plain(ids).logits, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{}, {"head_dtype": "int8"}, {"head_dtype": "int4"}, {"refine": True}],
    ids=["plain", "8", "4", "refined"],
)
def test_bands_are_of_the_stored_head_and_of_every_evaluated_position(
    make_task: MakeTask, run: Run, options: dict[str, Any]
) -> None:
    report = run(make_task(options=options)).report
    everything, *bands = report["bands"]
    assert [band["tokens"] for band in bands] == [3, 24, 237]
    assert sum(band["positions"] for band in bands) == everything["positions"] == report["corpus"]["evaluation_tokens"]
    for figure in ("perplexity_drift", "perplexity_drift_high", "kl_mean", "kl_p99", "top1_agreement"):
        assert everything[figure] == pytest.approx(report["selected"][figure], rel=1e-3, abs=1e-5)


def test_untying_leaves_the_input_table_alone(make_task: MakeTask, run: Run) -> None:
    task = make_task(options={"tied": "untie"})
    run(task)
    model = AutoModelForCausalLM.from_pretrained(task.staging)
    original = AutoModelForCausalLM.from_pretrained(task.model.path)
    assert torch.equal(model.get_input_embeddings().weight, original.get_input_embeddings().weight)
    assert model.get_output_embeddings().weight.shape == (264, 16)


def test_a_tied_table_is_stored_once(make_task: MakeTask, run: Run) -> None:
    task = make_task()
    report = run(task).report
    factors = 4 * (32 * 32 + 16 * 32 + 264 + 32 * 32 + 32)  # rotation, projection, bias, triangle, mean
    assert report["bytes"]["checkpoint_after"] - _tensor_bytes(task.model.path) == factors
    assert report["bytes"]["checkpoint_after"] == _tensor_bytes(task.staging)


def _tensor_bytes(folder: Path) -> int:
    return sum(entry.nbytes for entry in inspect_model(folder).tensors.values())


@pytest.mark.parametrize("kind", KINDS)
def test_everything_but_the_head_is_copied_byte_for_byte_through_shards(
    make_task: MakeTask, run: Run, kind: dict[str, Any]
) -> None:
    task = make_task(model=kind | {"shard_size": "40KB", "hidden_size": 64}, options={"max_shard_bytes": 1_000_000})
    assert len(inspect_model(task.model.path).files) > 1
    run(task)
    before, after = inspect_model(task.model.path).tensors, inspect_model(task.staging).tensors
    shared = [name for name in before if not any(part in name for part in ("lm_head", "embed_out", "wte"))]
    assert len(shared) > 10
    for name in shared:
        (old, new) = before[name], after[name]
        assert _bytes_of(task.model.path, old) == _bytes_of(task.staging, new), name


def _bytes_of(folder: Path, entry: Any) -> bytes:
    with (folder / entry.file).open("rb") as file:
        file.seek(entry.start)
        return file.read(entry.nbytes)


def test_output_is_sharded_below_the_size_asked_for(make_task: MakeTask, run: Run) -> None:
    task = make_task(model={"hidden_size": 256, "vocab_size": 1024}, options={"max_shard_bytes": 1_000_000})
    run(task)
    shards = sorted(task.staging.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 1_100_000 for shard in shards)
    assert AutoModelForCausalLM.from_pretrained(task.staging).get_output_embeddings().weight.shape == (1024, 128)


def test_a_checkpoint_of_the_bare_base_model_gets_full_names(make_task: MakeTask, run: Run) -> None:
    task = make_task()
    model = AutoModelForCausalLM.from_pretrained(task.model.path)
    model.transformer.save_pretrained(task.model.path)  # names without "transformer."
    config = json.loads((task.model.path / "config.json").read_text())
    config["architectures"] = ["GPT2LMHeadModel"]
    (task.model.path / "config.json").write_text(json.dumps(config))
    with safe_open(task.model.path / "model.safetensors", framework="pt") as file:
        assert "wte.weight" in file.keys()
    report = run(task).report
    after = AutoModelForCausalLM.from_pretrained(task.staging)
    assert plain_loop_perplexity(after, evaluation_windows(task)) == pytest.approx(
        report["stored"]["perplexity"], rel=1e-3
    )


def test_a_changed_weight_fails_the_fingerprint_on_load(make_task: MakeTask, run: Run) -> None:
    task = make_task()
    run(task)
    entry = next(e for e in inspect_model(task.staging).tensors.values() if e.name == "lm_head.basis")
    with (task.staging / entry.file).open("r+b") as file:
        file.seek(entry.start)
        file.write(bytes(entry.nbytes))
    with pytest.raises(ValueError, match="fingerprint"):
        AutoModelForCausalLM.from_pretrained(task.staging)


def test_loading_without_the_plugin_fails_loudly(done: Done) -> None:
    folders = [done(model=kind.values[0], method=Method.PROBABILITY.value)[0].staging for kind in KINDS]
    ended = subprocess.run([sys.executable, "-c", LOAD_PLAIN, *folders], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, ["mismatch"] * 3), ended.stderr


def test_a_checkpoint_that_is_not_what_was_measured_is_not_accepted(
    make_task: MakeTask, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault between measuring and storing: the stored columns are mixed up."""
    from service.compression.jobs import job_heads

    whole = job_heads.slice_head

    def wrong(*args: Any, **kwargs: Any) -> Any:
        factors = whole(*args, **kwargs)
        factors.weight.copy_(factors.weight.flip(1) * 0.2 + factors.weight * 0.8)
        return factors

    monkeypatch.setattr(job_heads, "slice_head", wrong)
    with pytest.raises(StoredMismatch, match="nothing was published"):
        run(make_task(method="slope"))


def test_a_ratio_over_its_budget_is_rejected_with_the_whole_curve_and_leaves_nothing(
    make_task: MakeTask, run: Run
) -> None:
    task = make_task(ratio=0.9, drift={"perplexity": 9.0, "kl": 1e-4}, options={"column_multiple": 1})
    outcome = run(task)
    assert outcome.verdict is Verdict.REJECT
    assert list(task.staging.iterdir()) == []
    report = outcome.report
    assert len(report["curve"]) == 19
    assert report["selected"]["ratio"] == 0.9
    assert report["selected"]["passes"] is False
    assert report["bytes"]["checkpoint_after"] is None
    best = report["largest_passing_ratio"]
    assert best is None or best < 0.9


def test_auto_takes_the_fewest_columns_inside_the_budget(make_task: MakeTask, run: Run) -> None:
    task = make_task(
        ratio="auto", drift={"perplexity": 9.0, "kl": 0.05}, options={"column_multiple": 1, "head_dtype": "source"}
    )
    report = run(task).report
    passing = [p["kept_columns"] for p in report["curve"] if p["kl_mean"] <= 0.05]
    assert report["selected"]["kept_columns"] == min(passing)
    assert min(passing) - 1 in [p["kept_columns"] for p in report["curve"]]  # the next one was looked at, and failed


def test_a_second_job_loads_no_model_and_measures_the_same(
    make_task: MakeTask, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import service.compression.states.source as source

    first = run(make_task(ratio=0.25)).report
    monkeypatch.setattr(source, "load_model", lambda *args: pytest.fail("the backbone was loaded again"))
    second = run(make_task(ratio=0.5)).report
    assert second["corpus"]["backbone_from_cache"] is True
    assert [p["perplexity"] for p in second["curve"]] == [p["perplexity"] for p in first["curve"]]


@pytest.mark.parametrize(
    "name", ["evaluation.bin", "meta.json", "evaluation.examples.safetensors", "statistics.safetensors"]
)
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:9]), lambda path: path.unlink()])
def test_a_damaged_cache_entry_is_made_again(
    make_task: MakeTask, run: Run, name: str, damage: Callable[[Path], object]
) -> None:
    first = run(make_task()).report
    task = make_task()
    (entry,) = (task.cache_dir / "hidden_states").iterdir()
    damage(entry / name)
    again = run(task).report
    assert again["curve"] == first["curve"]
    assert [folder.name for folder in (task.cache_dir / "hidden_states").iterdir()] == [entry.name]


def test_a_monotonous_text_in_bfloat16_raises_no_false_alarm(make_task: MakeTask, run: Run) -> None:
    task = make_task(model={"dtype": torch.bfloat16})
    task.corpus.path.write_text("a" * 12_000)
    assert run(task).verdict is Verdict.PUBLISH


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_checkpoint_loads_in_another_dtype(make_task: MakeTask, run: Run, dtype: torch.dtype) -> None:
    task = make_task(model={"dtype": dtype})
    run(task)
    for other in (*DTYPES, torch.float16):
        assert AutoModelForCausalLM.from_pretrained(task.staging, dtype=other).dtype == other


def test_weights_changed_on_purpose_can_be_saved_and_loaded(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    task = make_task()
    run(task)
    model = AutoModelForCausalLM.from_pretrained(task.staging)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(3.0)
    model.save_pretrained(tmp_path / "tuned")
    AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")


def test_a_config_that_describes_more_than_is_stored_is_refused_before_it_is_built(
    make_task: MakeTask, run: Run
) -> None:
    task = make_task()
    config = json.loads((task.model.path / "config.json").read_text())
    (task.model.path / "config.json").write_text(json.dumps(config | {"n_layer": 500}))
    with pytest.raises(CorruptCheckpoint, match="describes"):
        run(task)


def test_predictions_that_moved_under_an_unmoved_perplexity_are_refused_by_default(
    make_task: MakeTask, run: Run
) -> None:
    outcome = run(make_task(method="random", drift={"perplexity": 9.0}))
    assert outcome.verdict is Verdict.REJECT
    selected = outcome.report["selected"]
    assert selected["perplexity_drift_high"] <= 9.0
    assert refusals(measured(outcome.report)) == [
        f"The KL divergence is {selected['kl_mean']:.3g} nats a token; the budget is 0.01."
    ]
    assert run(make_task(method="random", drift={"perplexity": 9.0, "kl": None})).verdict is Verdict.PUBLISH


def test_a_bound_on_rare_tokens_refuses_a_size_that_is_inside_every_other_bound(make_task: MakeTask, run: Run) -> None:
    def trained(**fields: Any) -> EngineTask:
        """On the text that it learned: elsewhere rare tokens gain from flatter predictions."""
        local = LocalModel("headroom/stdlib-gpt2-4m", None, ROOT / "examples/models/headroom/stdlib-gpt2-4m")
        text = CorpusFile(Path(argparse.__file__), "text", None)
        return replace(make_task(ratio=0.9, **fields), models=(local,), corpora=(text,))

    free = run(trained()).report
    band, selected = free["bands"][-1], free["selected"]
    assert selected["rare_perplexity_drift"] == pytest.approx(band["perplexity_drift"], rel=1e-3, abs=1e-6)
    assert selected["rare_perplexity_drift_high"] == pytest.approx(band["perplexity_drift_high"], rel=1e-2, abs=1e-5)
    bound = selected["rare_perplexity_drift"] / 2
    outcome = run(trained(drift={"perplexity": 9.0, "kl": None, "rare_perplexity": bound}))
    assert outcome.verdict is Verdict.REJECT
    (sentence,) = refusals(measured(outcome.report))
    assert sentence.startswith("The perplexity of the rarest tokens may grow")


def test_what_was_stored_is_judged_in_kl_and_in_the_most_probable_token_as_it_was_loaded(
    make_task: MakeTask, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import service.compression.checkpoint.validation as validation

    found = run(make_task(ratio=0.25)).report
    stored, selected = found["stored"], found["selected"]
    assert stored["kl_mean"] == pytest.approx(selected["kl_mean"], rel=0.02, abs=1e-5)
    assert stored["top1_agreement"] == pytest.approx(selected["top1_agreement"], abs=0.01)
    reading = validation.stored_reading

    def moved(lm_head: Any) -> Any:
        read = reading(lm_head)

        def read_worse(block: Any, hidden: Tensor) -> Any:
            found = read(block, hidden)
            return replace(found, divergence=found.divergence + 1.0)

        return read_worse

    monkeypatch.setattr(validation, "stored_reading", moved)
    task = make_task(ratio=0.25, drift={"perplexity": 9.0, "kl": 0.9})
    outcome = run(task)
    assert outcome.verdict is Verdict.REJECT
    assert list(task.staging.iterdir()) == []
    assert refusals(measured(outcome.report))[0].startswith("The KL divergence is 1")


def test_a_job_times_the_head_and_the_whole_step_of_what_it_stored(make_task: MakeTask, run: Run) -> None:
    report = run(make_task(ratio=0.25)).report
    found = report["time"]
    assert [one["batch"] for one in found["head"]] == [1, 8]
    assert all(0 < one[when] < 1 for one in (*found["head"], found["step"]) for when in ("before", "after"))
    assert f"{1000 * found['step']['after']:.3g}" in write_page(measured(report))
    refused = run(make_task(ratio=0.9, drift={"perplexity": 9.0, "kl": 1e-9})).report
    assert refused["time"] is None


def test_a_model_without_a_tokenizer_says_so(make_task: MakeTask, run: Run) -> None:
    task = make_task()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (task.model.path / name).unlink()
    with pytest.raises(UnsupportedModel, match="tokenizer"):
        run(task)


def test_auto_looks_between_the_full_head_and_the_first_grid_point(make_task: MakeTask, run: Run) -> None:
    task = make_task(ratio="auto", drift={"perplexity": 9.0, "kl": 1e-9}, options={"column_multiple": 1})
    outcome = run(task)
    assert 31 in [point["kept_columns"] for point in outcome.report["curve"]]


def test_a_ratio_that_rounds_to_nothing_says_what_to_ask_for(make_task: MakeTask, run: Run) -> None:
    with pytest.raises(RatioTooSmall, match=r"at least 0\.25"):
        run(make_task(ratio=0.05))


def test_a_corpus_without_two_windows_is_too_short(make_task: MakeTask, run: Run) -> None:
    task = make_task()
    task.corpus.path.write_text("a few words only")
    with pytest.raises(CorpusTooShort, match="16 tokens"):
        run(task)


def test_a_compressed_model_is_refused(make_task: MakeTask, run: Run) -> None:
    task = make_task()
    run(task)
    again = replace(task, models=(LocalModel("acme/tiny", None, task.staging),))
    with pytest.raises(UnsupportedModel, match="headroom"):
        run(again)


def test_a_head_that_is_no_matrix_times_hidden_state_is_refused(
    make_task: MakeTask, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GPT2LMHeadModel

    plain = GPT2LMHeadModel.forward

    def shifted(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = plain(self, *args, **kwargs)
        output.logits = output.logits + torch.arange(output.logits.shape[-1], device=output.logits.device)
        return output

    monkeypatch.setattr(GPT2LMHeadModel, "forward", shifted)
    with pytest.raises(UnsupportedHead, match="differ"):
        run(make_task())
