"""What a recipe may ask of a head in bit planes, and which head is meant by what it leaves out."""

from typing import Any

import pytest
from pydantic import ValidationError

from tests.factories import make_recipe

PLANES = {"head_dtype": "planes"}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"options": PLANES | {"planes": {"bits": 5}}}, "8, 4, 3 or 2"),
        ({"options": PLANES | {"planes": {"bits": 0}}}, "8, 4, 3 or 2"),
        ({"options": PLANES | {"planes": {"rescored": -1}}}, "greater than or equal to 0"),
        ({"options": PLANES | {"planes": {"rescored": 1.5}}}, "valid integer"),
        ({"options": PLANES | {"planes": {"whole_columns": 33}}}, "multiple of 32"),
        ({"options": PLANES | {"planes": {"columns": 64}}}, "not permitted"),
        ({"options": PLANES, "ratio": 0.3}, "planes hold every column: leave out ratio"),
        ({"options": PLANES | {"keep_removed": True}}, "cannot be restored"),
        ({"options": PLANES | {"export": ["dense"]}}, "leave out options.export dense"),
        ({"options": PLANES | {"publish_ratios": [0.5]}}, "leave out options.publish_ratios"),
        ({"options": PLANES, "method": "slope"}, "leave out method"),
        ({"options": {"planes": {"bits": 4}}}, "settings of options.head_dtype planes"),
        ({"options": {"head_dtype": "int8", "planes": {}}}, "settings of options.head_dtype planes"),
    ],
)
def test_what_planes_cannot_be_is_refused_in_a_sentence(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        make_recipe(**{"ratio": "auto"} | fields)


def test_planes_are_asked_for_with_or_without_settings() -> None:
    plain, set_ = (
        make_recipe(ratio="auto", options=PLANES),
        make_recipe(ratio=0, options=PLANES | {"planes": {"bits": 8}}),
    )
    assert (plain.planes.bits, plain.planes.rescored, plain.planes.whole_columns) == (4, 1024, None)
    assert set_.planes.bits == 8
    assert plain.head_dtype == set_.head_dtype == "planes"
    for recipe in (plain, set_):
        assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("fields", "is_open"),
    [
        ({"ratio": "auto"}, True),
        ({"ratio": "auto", "budget": {"read_bytes": 0.3}}, True),
        ({"ratio": 0.3}, False),
        ({"ratio": "auto", "options": {"head_dtype": "source"}}, False),
        ({"ratio": "auto", "options": {"head_dtype": "int8"}}, False),
        ({"ratio": "auto", "method": "slope"}, False),
        ({"ratio": "auto", "options": {"refine": True}}, False),
        ({"ratio": "auto", "options": {"publish_ratios": [0.5]}}, False),
        ({"ratio": "auto", "options": {"repair": "none"}}, False),
        ({"ratio": "auto", "options": {"export": ["onnx"]}}, True),
    ],
)
def test_planes_are_considered_where_nothing_was_asked_that_only_columns_can_do(
    fields: dict[str, Any], is_open: bool
) -> None:
    assert make_recipe(**fields).is_open is is_open


def test_a_ratio_alone_means_columns_in_the_models_own_dtype() -> None:
    assert make_recipe(ratio=0.3).head_dtype == "source"


def test_a_recipe_that_was_stored_before_planes_means_what_it_meant() -> None:
    """Every field was said, the form of the head too."""
    stored = make_recipe(ratio="auto").model_dump(mode="json")
    stored["options"] |= {"head_dtype": "source"}
    del stored["options"]["planes"]
    recipe = make_recipe(**stored)
    assert (recipe.head_dtype, recipe.is_open) == ("source", False)
    by_bytes = make_recipe(ratio="auto", budget={"head_bytes": 0.25})
    assert by_bytes.budget is not None
    assert by_bytes.budget.read == 0.25
