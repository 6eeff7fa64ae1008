"""Heads in bit planes through the whole engine: what is stored is what was measured, and loads the public way."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import headroom  # registers the format too
from service.compression.drift.gate import GRID
from service.compression.states.hidden_cache import HiddenCache
from service.foundation.errors import InvalidSelection
from service.models.column_counts import kept_columns
from service.models.model_files import inspect_model
from service.ports.engine import EngineOutcome, EngineTask, Verdict
from service.reports.refusals import refusals, rejected_for
from tests.reports import measured

pytestmark = pytest.mark.slow

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]

TIED: dict[str, Any] = {"family": "gpt2", "tied": True, "hidden_size": 96}
UNTIED: dict[str, Any] = {"family": "llama", "tied": False, "hidden_size": 96}
ODD: dict[str, Any] = {"family": "llama", "tied": True, "hidden_size": 44}  # no whole number of groups
SMALL: dict[str, Any] = {"family": "llama", "tied": False, "hidden_size": 24}  # narrower than a group
KINDS = [
    pytest.param(kind, id=f"{kind['family']}-{'tied' if kind['tied'] else 'untied'}-{kind['hidden_size']}")
    for kind in (TIED, UNTIED, ODD, SMALL)
]
# On fewer, the rounded input table of so small a model moves perplexity further than what is stored may move.
TOKENS = {"calibration_tokens": 2048, "evaluation_tokens": 2048}
PLANES: dict[str, Any] = {"ratio": "auto", "options": {"head_dtype": "planes", "compare": []} | TOKENS}


def asked(**planes: Any) -> dict[str, Any]:
    return PLANES | {"options": PLANES["options"] | {"planes": planes}}


def evaluation_windows(task: EngineTask) -> torch.Tensor:
    cache = HiddenCache(task.cache_dir / "hidden_states")
    (key,) = [folder.name for folder in cache.root.iterdir()]
    return cache.open(key, "evaluation").windows


@torch.no_grad()
def plain_loop(before: Any, after: Any, windows: torch.Tensor) -> dict[str, float]:
    """Perplexity, KL and same most probable token by the definition: full logits of one window at a time."""
    nats, kl, same, predicted = 0.0, 0.0, 0, 0
    for window in windows:
        p = before(window[None]).logits[0, :-1].double().log_softmax(-1)
        q = after(window[None]).logits[0, :-1].double().log_softmax(-1)
        nats -= float(q.gather(1, window[1:, None]).sum())
        kl += float((p.exp() * (p - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        predicted += len(window) - 1
    total = torch.tensor(nats / predicted, dtype=torch.float64)
    return {"perplexity": float(total.exp()), "kl": kl / predicted, "top1": same / predicted}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_head_in_planes_has_the_figures_of_a_plain_loop(
    make_task: MakeTask, run: Run, kind: dict[str, Any], dtype: torch.dtype
) -> None:
    task = make_task(model=kind | {"dtype": dtype}, **asked(rescored=16))
    outcome = run(task)
    assert outcome.verdict is Verdict.PUBLISH
    report = outcome.report
    before = AutoModelForCausalLM.from_pretrained(task.model.path, dtype=torch.float32)
    after = AutoModelForCausalLM.from_pretrained(task.staging, dtype=torch.float32)
    found = plain_loop(before, after, evaluation_windows(task))
    assert report["head_dtype"] == "planes"
    assert (report["planes"]["bits"], report["planes"]["rescored"]) == (4, 16)
    # The model runs in float32 here; hidden states of the job are in the model's dtype.
    exact = dtype == torch.float32
    assert report["stored"]["perplexity"] == pytest.approx(found["perplexity"], rel=1e-4 if exact else 2e-2)
    # Rounded hidden states of the body move predictions a little of their own.
    assert report["stored"]["kl_mean"] == pytest.approx(found["kl"], rel=0.02, abs=0.0 if exact else 1e-3)
    assert report["stored"]["top1_agreement"] == pytest.approx(found["top1"], abs=0.005 if exact else 0.02)
    if not kind["tied"]:  # else the input side reads the planes too, which is measured once they are stored
        assert report["selected"]["kl_mean"] == pytest.approx(report["stored"]["kl_mean"], rel=0.02 if exact else 0.1)
    stored = inspect_model(task.staging)
    assert sum(entry.nbytes for entry in stored.tensors.values()) == report["bytes"]["checkpoint_after"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_tied_table_is_stored_once_and_every_setting_is_there_after_loading(
    make_task: MakeTask, run: Run, kind: dict[str, Any]
) -> None:
    task = make_task(model=kind | {"dtype": torch.bfloat16}, **asked(rescored=16))
    report = run(task).report
    found = report["bytes"]
    columns, groups = kind["hidden_size"], -(-kind["hidden_size"] // 32)
    vocab = report["head"]["vocab_size"]
    least = vocab * (columns + 2 * groups) + 2 * columns**2
    assert least <= found["stored_after"] <= least + vocab + 4 * columns  # a padded pair of nibbles, E[h]
    model = AutoModelForCausalLM.from_pretrained(task.staging)
    headroom.set_head(model, bits=8)
    assert headroom.head_setting(model).bits == 8
    tokens = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert tokens.shape[1] > 3


def test_the_curve_of_planes_falls_with_more_rows_and_with_more_bits(make_task: MakeTask, run: Run) -> None:
    report = run(make_task(model=UNTIED, **asked(rescored=64))).report
    curve = {(one["bits"], one["rescored"]): one for one in report["planes"]["curve"]}
    assert {bits for bits, _ in curve} == {8, 4, 3, 2}
    for bits in (4, 3, 2):
        of_bits = [one["kl_mean"] for (found, _), one in sorted(curve.items()) if found == bits]
        assert of_bits == sorted(of_bits, reverse=True)
    assert curve[2, 0]["kl_mean"] > curve[3, 0]["kl_mean"] > curve[4, 0]["kl_mean"] > curve[8, 0]["kl_mean"]
    assert curve[4, 64]["kl_mean"] == report["selected"]["kl_mean"]
    # All rows computed again are the plain 8-bit head.
    assert curve[2, 264]["kl_mean"] == pytest.approx(curve[8, 0]["kl_mean"], rel=1e-3, abs=1e-7)


def test_plain_integers_are_measured_beside_planes(make_task: MakeTask, run: Run) -> None:
    plain = run(make_task(model=TIED, **asked(rescored=8))).report["plain"]
    assert 0 < plain["int8"]["kl_mean"] < plain["int4"]["kl_mean"]
    assert plain["int4"]["share"] < plain["int8"]["share"] < 1


def test_settings_that_the_head_cannot_have_are_refused_before_any_work(make_task: MakeTask, run: Run) -> None:
    with pytest.raises(InvalidSelection, match="the vocabulary has 264 rows"):
        run(make_task(model=UNTIED, **asked(rescored=265)))
    with pytest.raises(InvalidSelection, match="the head has 96 columns"):
        run(make_task(model=UNTIED, **asked(whole_columns=128)))


def test_a_head_in_planes_over_its_budget_is_rejected_with_its_figures(make_task: MakeTask, run: Run) -> None:
    task = make_task(model=UNTIED, drift={"perplexity": 9.0, "kl": 1e-9}, **asked(bits=2, rescored=0))
    outcome = run(task)
    assert outcome.verdict is Verdict.REJECT
    assert list(task.staging.iterdir()) == []
    report = outcome.report
    assert report["head_dtype"] == "planes"
    assert report["selected"]["kl_mean"] > 1e-9
    assert report["selected"]["passes"] is False
    assert report["bytes"]["head_after"] is None


@pytest.mark.parametrize("kind", [TIED, UNTIED], ids=["tied", "untied"])
def test_without_a_ratio_the_head_that_reads_least_inside_the_budgets_is_stored(
    make_task: MakeTask, run: Run, kind: dict[str, Any]
) -> None:
    asked_for = {"ratio": "auto", "drift": {"perplexity": 9.0, "kl": 1e-3}, "options": {"compare": []}}
    task = make_task(model=kind | {"dtype": torch.bfloat16}, **asked_for)
    outcome = run(task)
    report = outcome.report
    assert outcome.verdict is Verdict.PUBLISH
    points = report["frontier"]["points"]
    (chosen,) = [one for one in points if one["chosen"]]
    assert chosen["share"] == min(one["share"] for one in points if one["passes"])
    assert {one["head_dtype"] for one in points} == {"source", "planes"}
    assert report["head_dtype"] == chosen["head_dtype"]
    assert chosen["head_bytes"] == report["bytes"]["head_after"]


@pytest.mark.parametrize(
    ("kl", "head_dtype", "is_swept"), [(1e-3, "auto", False), (9.0, "auto", True), (1e-3, "source", True)]
)
def test_sizes_at_the_edge_of_the_budget_are_swept_where_columns_may_read_least(
    make_task: MakeTask, run: Run, kl: float, head_dtype: str, is_swept: bool
) -> None:
    """A tight budget few columns can leave, and then planes read less than any of them."""
    drift, options = {"perplexity": 9.0, "kl": kl}, {"head_dtype": head_dtype, "column_multiple": 1}
    report = run(make_task(model=UNTIED, ratio="auto", drift=drift, options=options)).report
    grid = {kept_columns(96, ratio, 1) for ratio in GRID}
    assert ({one["kept_columns"] for one in report["curve"]} > grid) is is_swept
    assert grid <= {one["kept_columns"] for one in report["curve"]}


@pytest.mark.parametrize("bound", ["read_bytes", "stored_bytes"])
def test_a_budget_of_bytes_finds_the_least_kl_among_all_forms(make_task: MakeTask, run: Run, bound: str) -> None:
    limit = {"read_bytes": 0.7, "stored_bytes": 0.95}[bound]  # the basis of so small a head weighs much
    wanted = {"ratio": "auto", "budget": {bound: limit}, "drift": {"perplexity": 9.0, "kl": 9.0}}
    report = run(make_task(model=TIED | {"dtype": torch.bfloat16}, **wanted, options={"compare": []})).report
    points = report["frontier"]["points"]
    share = "share" if bound == "read_bytes" else "stored_share"
    (chosen,) = [one for one in points if one["chosen"]]
    inside = [one for one in points if one[share] <= limit]
    assert chosen["kl_mean"] == min(one["kl_mean"] for one in inside)
    assert {"planes", "int8", "int4"} <= {one["head_dtype"] for one in points}
    if bound == "stored_bytes":
        assert report["bytes"]["stored_after"] <= limit * report["bytes"]["stored_before"]


def test_a_budget_of_kl_finds_the_fewest_bytes_read_inside_it(make_task: MakeTask, run: Run) -> None:
    wanted = {"ratio": "auto", "budget": {"kl": 2e-3}, "drift": {"perplexity": 9.0}, "options": {"compare": []}}
    report = run(make_task(model=UNTIED | {"dtype": torch.bfloat16}, **wanted)).report
    points = report["frontier"]["points"]
    (chosen,) = [one for one in points if one["chosen"]]
    assert chosen["kl_mean"] <= 2e-3
    assert chosen["share"] == min(one["share"] for one in points if one["kl_mean"] <= 2e-3)


NOTHING_SERVES: dict[str, dict[str, Any]] = {
    "over the KL of a job that is asked for nothing": {"drift": {"perplexity": 9.0, "kl": 1e-9}},
    "over the KL of a search": {"budget": {"kl": 1e-9}, "drift": {"perplexity": 9.0}},
    "over the bytes of a search": {"budget": {"read_bytes": 0.05}, "drift": {"perplexity": 9.0, "kl": 1e-3}},
    "over the stored bytes of a search": {"budget": {"stored_bytes": 0.05}, "drift": {"perplexity": 9.0, "kl": 1e-3}},
}


@pytest.mark.parametrize("wanted", NOTHING_SERVES.values(), ids=list(NOTHING_SERVES))
def test_a_search_that_finds_nothing_tells_why_of_the_head_that_stands_for_it(
    make_task: MakeTask, run: Run, wanted: dict[str, Any]
) -> None:
    outcome = run(make_task(model=TIED, ratio="auto", options={"compare": []}, **wanted))
    assert outcome.verdict is Verdict.REJECT
    report = outcome.report
    (own,) = report["corpora"]
    assert own["selected"]["kl_mean"] == report["selected"]["kl_mean"]
    told = measured(report)
    (sentence,) = refusals(told)
    nearest = report["frontier"]["nearest"]
    if "read_bytes" in wanted.get("budget", {}):
        assert sentence == f"The head reads {nearest['share']:.2g} of its bytes; the budget is 0.05."
    elif "stored_bytes" in wanted.get("budget", {}):
        assert sentence == f"The head stores {nearest['stored_share']:.2g} of its bytes; the budget is 0.05."
    else:
        assert f"{report['selected']['kl_mean']:.3g} nats a token" in sentence
    assert rejected_for(told) == "over_budget"
