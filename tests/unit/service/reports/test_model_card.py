"""The model card says what was removed and what it cost."""

from pathlib import Path
from typing import Any

import yaml

from headroom.contract.compress import Method
from headroom.contract.report.report import CompressReport
from service.ports.models import LocalModel
from service.reports.model_card import METHODS, write_card
from tests.factories import make_job, make_recipe
from tests.reports import compress_report, make_frontier, make_report

MODEL = LocalModel("acme/tiny", "abc123", Path("unused"))
SELECTED: dict[str, Any] = {
    "ratio": 0.3,
    "kept_columns": 224,
    "perplexity": 213.07,
    "perplexity_drift": 0.00033,
    "perplexity_drift_low": 0.0001,
    "perplexity_drift_high": 0.0005,
    "kl_mean": 0.0021,
    "kl_p95": 0.01,
    "kl_p99": 0.02,
    "top1_agreement": 0.981,
    "passes": True,
}


def make_measured(**parts: Any) -> CompressReport:
    sizes = {"checkpoint_before": 20000, "checkpoint_after": 18000, "head_before": 10000, "head_after": 7000}
    measured = {
        "head": {"vocab_size": 16384, "hidden_size": 320, "tied": True},
        "baseline": {"perplexity": 213.0, "kind": "perplexity"},
        "selected": SELECTED,
        "bytes": sizes | {"decode_read_before": 20000, "decode_read_after": 18000},
    }
    return compress_report(**measured | parts)


def test_the_card_of_a_budget_lists_the_heads_that_no_other_beats() -> None:
    report = make_report(drifts={0.1: 0.0001, 0.5: 0.004}, chosen=0.5)
    card = write_card(make_job(), MODEL, make_measured(head_dtype="int4", frontier=make_frontier(report["curve"])))

    assert "Columns: `int4`." in card
    assert "the least KL at 0.25 of the head's bytes read, of 2 sizes" in card
    assert "| 4 bits | 50 | +0.400% (+0.360% to +0.440%) |" in card
    assert "## Bytes against drift" not in write_card(make_job(), MODEL, make_measured())


def test_the_front_matter_is_yaml_and_names_the_base_model() -> None:
    _, front_matter, _ = write_card(make_job(), MODEL, make_measured()).split("---\n", 2)

    fields = yaml.safe_load(front_matter)

    assert fields["base_model"] == "acme/tiny"
    assert fields["library_name"] == "transformers"
    assert "headroom" in fields["tags"]


def test_the_card_tells_what_was_removed_what_it_cost_and_how_to_load_it() -> None:
    card = write_card(make_job(recipe=make_recipe(method="probability")), MODEL, make_measured())

    assert "lost 96 of 320 columns (ratio 0.3)" in card
    assert "at revision `abc123`" in card
    assert "| +0.033 % (+0.010 % to +0.050 %) |" in card
    assert "| Same most likely token |  | 98.100 % |" in card
    assert "| Bytes of the head | 10,000 | 7,000 |" in card
    assert "pip install 'headroom-lm[load]'" in card
    assert "import headroom" in card
    assert "AutoModelForCausalLM.from_pretrained" in card


def test_a_masked_model_is_loaded_and_named_as_one() -> None:
    masked = make_measured(
        model={"id": "acme/tiny", "digest": "ab" * 32, "auto_class": "AutoModelForMaskedLM"},
        baseline={"perplexity": 213.0, "kind": "pseudo-perplexity"},
    )
    card = write_card(make_job(), MODEL, masked)

    assert 'pipeline_tag: "fill-mask"' in card
    assert "AutoModelForMaskedLM.from_pretrained" in card
    assert "AutoModelForCausalLM" not in card
    assert "| Pseudo-perplexity | 213.0000 |" in card


def test_a_figure_that_was_not_measured_is_said_not_to_be() -> None:
    report = make_measured(selected=SELECTED | {"kl_mean": None})

    assert "| KL divergence, nats per token |  | not measured |" in write_card(make_job(), MODEL, report)


def test_every_method_is_described() -> None:
    assert set(METHODS) == {method.value for method in Method}
