from pathlib import Path
from typing import Any

import pytest

from headroom.contract.recipe import RECIPES
from service.foundation.errors import RatioTooSmall, UnsupportedHead, UnsupportedModel
from service.jobs.estimates import FLOPS_PER_SECOND, START_SECONDS, estimate, head_facts
from service.models.column_counts import checked_kept_columns, kept_columns
from service.models.memory_needs import offloaded_bytes, working_bytes
from service.models.model_files import ModelInspection, inspect_model
from tests.factories import CORPUS_ID, make_recipe, write_model_files


def model(folder: Path, tensors: dict[str, list[int]] | None = None, **config: Any) -> ModelInspection:
    return inspect_model(write_model_files(folder / "m", tensors, **config))


@pytest.mark.parametrize(
    ("hidden_size", "ratio", "multiple", "kept"),
    [
        (100, 0.29, 1, 71),  # plain int() makes it 72
        (320, 0.3, 8, 224),
        (320, 0.31, 8, 224),  # 221 rounds up
        (320, 0.999, 8, 8),
        (10, 0.99, 1, 1),
        (10, 0.5, 256, 10),
    ],
)
def test_kept_columns_round_up(hidden_size: int, ratio: float, multiple: int, kept: int) -> None:
    assert kept_columns(hidden_size, ratio, multiple) == kept


def test_a_ratio_that_removes_nothing_is_refused() -> None:
    assert checked_kept_columns(320, 0.025, 8) == 312
    with pytest.raises(RatioTooSmall):
        checked_kept_columns(320, 0.02, 8)


def test_the_bytes_of_a_small_head_by_hand(tmp_path: Path) -> None:
    found = model(tmp_path)  # 32 rows, 16 columns, float32
    general = estimate(make_recipe(ratio=0.5, method="probability"), found, [1000])
    assert general.head_bytes_after == 4 * (32 * 8 + 32) + 4 * 8 * 16
    permutation = estimate(make_recipe(ratio=0.5, method="slope"), found, [1000])
    assert permutation.head_bytes_after == 4 * (32 * 8 + 32) + 8 * 8


def test_the_seconds_of_a_small_job_by_hand(tmp_path: Path) -> None:
    found = model(tmp_path)
    parameters = 32 * 16 + 16 + 32 * 16
    tokens = 8_000_000  # of 32 MB of text; the options allow 4 + 4 million
    options = {"calibration_tokens": 4_000_000, "evaluation_tokens": 4_000_000}
    operations = 2 * parameters * tokens + 4 * 32 * 16 * tokens + 2 * parameters * 4_000_000 + 60 * 16**3
    told = estimate(make_recipe(options=options), found, [32_000_000])
    further = options | {"publish_ratios": [0.5, 0.9]}
    assert estimate(make_recipe(options=further), found, [32_000_000]).seconds > told.seconds
    with pytest.raises(RatioTooSmall):
        estimate(make_recipe(options=options | {"publish_ratios": [1e-6]}), found, [1000])
    assert told.seconds == pytest.approx(operations / FLOPS_PER_SECOND + START_SECONDS, abs=0.05)
    assert told.seconds > START_SECONDS + 0.5
    assert estimate(make_recipe(options=options), found, [400]).seconds < told.seconds


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    facts = head_facts(model(tmp_path, {"transformer.wte.weight": [32, 16]}, tie_word_embeddings=True))
    assert (facts.vocab_size, facts.hidden_size, facts.is_tied, facts.nbytes) == (32, 16, True, 32 * 16 * 4)


def test_a_head_of_unknown_name_is_told_from_the_config(tmp_path: Path) -> None:
    facts = head_facts(model(tmp_path, {"strange.weight": [32, 16]}))
    assert (facts.vocab_size, facts.hidden_size, facts.nbytes) == (32, 16, 32 * 16 * 4)


def test_a_head_nobody_can_make_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedHead):
        head_facts(model(tmp_path, {"strange.weight": [3]}, vocab_size=None, hidden_size=None))


def test_what_predicts_no_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel):
        head_facts(model(tmp_path, architectures=["BertForSequenceClassification"]))


def test_two_models_to_compare_are_held_at_a_time(tmp_path: Path) -> None:
    found = model(tmp_path)
    body = {"model": "acme/tiny", "corpus": CORPUS_ID}
    one, two = (
        estimate(RECIPES.validate_python(body | fields), found, [1000]).memory_bytes
        for fields in ({"kind": "analyze"}, {"kind": "compare", "other": "acme/other"})
    )
    assert two - one == found.nbytes


def test_an_offloaded_model_takes_its_largest_block_and_what_is_in_none(tmp_path: Path) -> None:
    tensors = {"wte.weight": [32, 16], "h.0.mlp.weight": [64, 16], "h.0.ln.weight": [16], "h.1.mlp.weight": [64, 16]}
    found = model(tmp_path, tensors | {"ln_f.weight": [16]}, tie_word_embeddings=True)
    assert offloaded_bytes(found) == 4 * (32 * 16 + 64 * 16 + 16 + 16)
    told = estimate(make_recipe(), found, [1000])
    assert told.memory_bytes == working_bytes(32, 16) + found.nbytes
    assert told.least_memory_bytes == working_bytes(32, 16) + offloaded_bytes(found)
