"""What a job may move by default, and what recipes say that were stored before there were as many bounds."""

from typing import Any

import pytest
from pydantic import ValidationError

from headroom.contract.recipe import RECIPES
from tests.factories import CORPUS_ID, make_recipe


def evaluated(drift: dict[str, Any], own: dict[str, Any] | None, **fields: Any) -> Any:
    evaluation = [{"name": "prose", "corpus": CORPUS_ID, "drift": own}]
    return make_recipe(drift=drift, evaluation=evaluation, **fields).evaluation[0].drift


def test_a_job_is_bounded_in_perplexity_and_in_kl_by_default() -> None:
    drift = make_recipe().drift
    assert (drift.perplexity, drift.kl, drift.top1, drift.rare_perplexity) == (0.01, 0.01, None, None)


def test_each_bound_can_be_taken_away() -> None:
    drift = make_recipe(drift={"perplexity": None, "kl": None}).drift
    assert (drift.perplexity, drift.kl) == (None, None)


def test_a_recipe_stored_before_kl_had_a_default_goes_on_without_a_bound_on_it() -> None:
    old = make_recipe().model_dump(mode="json") | {"drift": {"perplexity": 0.02, "kl": None, "group_gap": None}}
    drift = RECIPES.validate_python(old).drift
    assert (drift.perplexity, drift.kl, drift.top1, drift.rare_perplexity) == (0.02, None, None, None)


def test_a_further_text_has_the_bounds_of_the_job_where_it_names_none() -> None:
    assert evaluated({"kl": None, "top1": 0.9}, {"perplexity": 0.5}).model_dump() == {
        "perplexity": 0.5,
        "kl": None,
        "top1": 0.9,
        "rare_perplexity": None,
    }
    assert evaluated({"kl": None}, {"kl": 0.1}).kl == 0.1
    assert evaluated({"kl": None}, None) is None
    searched = evaluated({"kl": None}, {"kl": 0.1}, ratio="auto", budget={"drift": 0.04})
    assert searched.perplexity == 0.04


def test_a_recipe_says_the_same_after_it_was_stored() -> None:
    recipe = make_recipe(
        drift={"kl": None}, evaluation=[{"name": "prose", "corpus": CORPUS_ID, "drift": {"perplexity": 0.5}}]
    )
    assert RECIPES.validate_python(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(("bound", "value"), [("top1", 1.01), ("top1", 0.0), ("rare_perplexity", 0.0), ("kl", -1.0)])
def test_a_bound_that_nothing_can_meet_is_refused(bound: str, value: float) -> None:
    with pytest.raises(ValidationError, match=bound):
        make_recipe(drift={bound: value})
