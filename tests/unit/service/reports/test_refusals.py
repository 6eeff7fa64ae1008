"""Every budget that was exceeded is a sentence, and no other."""

from typing import Any

import pytest

from service.reports.refusals import refusals
from service.reports.report_page import write_page
from tests.reports import make_report


def refused(**parts: Any) -> dict[str, Any]:
    report = make_report({0.5: 0.04}, 0.5)
    return report | {"selected": report["selected"] | {"passes": False}} | parts


def test_a_job_that_passed_was_refused_by_nothing() -> None:
    assert refusals(make_report({0.5: 0.001}, 0.5)) == []


def test_the_page_of_a_refused_job_lists_why() -> None:
    assert "<li>The perplexity may grow by 4.4 %" in write_page(refused())


def test_a_report_from_before_the_plot_of_fitted_tokens_still_has_a_page() -> None:
    report = refused()
    report.pop("fitted", None)
    assert 'id="fitted"' not in write_page(report)


def test_the_upper_end_of_the_interval_is_told_with_the_budget() -> None:
    assert refusals(refused()) == [
        "The perplexity may grow by 4.4 % (upper end of the 95 % interval); the budget is 1 %."
    ]


def test_each_budget_that_was_exceeded_is_told() -> None:
    told = refusals(refused(budget={"perplexity": 0.01, "kl": 0.02}))
    assert told[1] == "The KL divergence is 0.04 nats a token; the budget is 0.02."
    assert refusals(refused(budget={"perplexity": 0.05, "kl": 0.02})) == told[1:]


def test_of_several_texts_only_those_over_their_own_budget_are_named() -> None:
    report = refused()
    inside = {
        "name": "corpus",
        "budget": {"perplexity": 0.2, "kl": None},
        "selected": report["selected"],
        "stored": None,
    }
    over = inside | {"name": "code", "stored": {"perplexity_drift_high": 0.25}}
    assert refusals(report | {"corpora": [inside, over]}) == [
        "The perplexity on code may grow by 25 % (upper end of the 95 % interval); the budget is 20 %."
    ]


def test_a_drift_that_is_no_number_and_a_gap_between_groups_are_told() -> None:
    report = refused(
        budget={"perplexity": 0.01, "kl": None, "group_gap": 0.02},
        group_gap={"most": "de", "least": "en", "gap": 0.03, "high": 0.05},
    )
    report["selected"]["perplexity_drift_high"] = None
    assert refusals(report) == [
        "The drift of perplexity is no finite number; the budget is 1 %.",
        "The drift of de and en may lie 5 % apart; the budget for groups is 2 %.",
    ]


@pytest.mark.parametrize(("budget", "passes", "count"), [(None, None, 0), ({"perplexity": 0.1}, True, 0)])
def test_a_comparison_without_a_budget_or_inside_it_is_not_refused(budget: Any, passes: Any, count: int) -> None:
    band = {"perplexity_drift_high": 0.05, "kl_mean": 0.1}
    report = {"kind": "compare", "budget": budget, "passes": passes, "bands": [band]}
    assert len(refusals(report)) == count


def test_a_comparison_over_both_budgets_tells_both() -> None:
    report = {
        "kind": "compare",
        "budget": {"perplexity": 0.01, "kl": 0.02},
        "passes": False,
        "baseline": {"kind": "pseudo-perplexity"},
        "bands": [{"perplexity_drift_high": 0.05, "kl_mean": 0.1}],
    }
    perplexity, kl = refusals(report)
    assert perplexity.startswith("The pseudo-perplexity may grow by 5 %")
    assert kl == "The KL divergence is 0.1 nats a token; the budget is 0.02."


def test_steering_is_refused_for_its_kl_alone() -> None:
    steering = {"kl_mean": 0.5, "max_kl": 0.1}
    assert refusals({"kind": "steer", "steering": steering}) == [
        "The KL divergence is 0.5 nats a token; the budget is 0.1."
    ]
    assert refusals({"kind": "steer", "steering": steering | {"max_kl": None}}) == []
