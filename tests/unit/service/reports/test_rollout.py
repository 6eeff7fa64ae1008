"""The stages of a roll-out follow from the curve."""

import pytest

from service.reports.rollout import roll_out
from tests.reports import compress_report, make_report


def test_stages_go_from_the_mildest_size_worth_serving_to_the_chosen_one() -> None:
    plan = roll_out(
        compress_report(drifts={0.1: 0.0001, 0.3: 0.0008, 0.5: 0.004, 0.7: 0.009}, chosen=0.7), can_widen=True
    )

    assert plan is not None
    assert [(stage.ratio, stage.traffic) for stage in plan.stages] == [
        (0.3, 0.01),  # a tenth of the budget
        (0.5, 0.1),  # half of it
        (0.7, 0.5),
        (0.7, 1.0),
    ]


def test_a_size_that_is_the_mildest_of_all_meets_the_traffic_in_steps() -> None:
    plan = roll_out(compress_report(drifts={0.1: 0.004}, chosen=0.1), can_widen=True)

    assert plan is not None
    assert [(stage.ratio, stage.traffic) for stage in plan.stages] == [
        (0.1, 0.01),
        (0.1, 0.1),
        (0.1, 0.5),
        (0.1, 1.0),
    ]


def test_a_stage_stops_at_twice_the_divergence_that_was_measured() -> None:
    plan = roll_out(compress_report(drifts={0.5: 0.004}, chosen=0.5), can_widen=True)

    assert plan is not None
    stage = plan.stages[-1]
    assert stage.stop_above_kl == pytest.approx(2 * stage.kl_mean)
    assert stage.stop_below_agreement < stage.top1_agreement


def test_a_refused_result_has_no_roll_out() -> None:
    selected = make_report(drifts={0.5: 0.5}, chosen=0.5)["selected"] | {"passes": False}

    assert roll_out(compress_report({0.5: 0.5}, selected=selected), can_widen=True) is None


@pytest.mark.parametrize(("can_widen", "words"), [(True, "without loading anything"), (False, "has to be loaded")])
def test_the_way_back_depends_on_where_the_removed_columns_are(can_widen: bool, words: str) -> None:
    plan = roll_out(compress_report({0.5: 0.004}), can_widen=can_widen)

    assert plan is not None
    assert words in plan.back[0]


@pytest.mark.parametrize(
    ("head_dtype", "can_widen", "words"),
    [
        ("source", True, "monitor(model) samples"),
        ("source", False, "full_weight=..."),
        ("int8", False, "cannot watch"),
        ("int4", False, "cannot watch"),
    ],
)
def test_the_monitor_is_only_offered_where_it_works(head_dtype: str, can_widen: bool, words: str) -> None:
    plan = roll_out(compress_report({0.5: 0.004}, head_dtype=head_dtype), can_widen=can_widen)

    assert plan is not None
    assert words in plan.sampling


def test_the_checklist_says_no_where_the_report_does() -> None:
    corpus = make_report(drifts={0.5: 0.004}, chosen=0.5)["corpus"] | {"evaluation_windows": 3}
    plan = roll_out(compress_report({0.5: 0.004}, corpus=corpus), can_widen=True)

    assert plan is not None
    assert [item.ok for item in plan.checklist if "enough text" in item.text] == [False]
