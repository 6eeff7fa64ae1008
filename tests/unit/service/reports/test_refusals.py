"""Every budget that was exceeded is a sentence, and no other."""

from typing import Any

import pytest

from headroom.contract.report.report import CompressReport
from service.reports.refusals import refusals
from service.reports.report_page import write_page
from tests.reports import compare_report, compress_report, make_part, make_report, opened, steer_report


def refused(**parts: Any) -> CompressReport:
    report = make_report({0.5: 0.04}, 0.5)
    return opened(CompressReport, report | {"selected": report["selected"] | {"passes": False}} | parts)


def test_a_job_that_passed_was_refused_by_nothing() -> None:
    assert refusals(compress_report()) == []


def test_the_page_of_a_refused_job_lists_why() -> None:
    assert "<li>The perplexity may grow by 4.4 %" in write_page(refused())


def test_a_report_from_before_the_plot_of_fitted_tokens_still_has_a_page() -> None:
    assert 'id="fitted"' not in write_page(refused(fitted=None))


def test_the_upper_end_of_the_interval_is_told_with_the_budget() -> None:
    assert refusals(refused()) == [
        "The perplexity may grow by 4.4 % (upper end of the 95 % interval); the budget is 1 %."
    ]


def test_where_only_the_interval_reaches_over_the_budget_more_tokens_are_named_as_the_way_out() -> None:
    wide = refused().selected.model_dump() | {"perplexity_drift": 0.0077, "perplexity_drift_high": 0.0127}
    assert refusals(refused(selected=wide)) == [
        "The perplexity may grow by 1.27 % (upper end of the 95 % interval); the budget is 1 % "
        "(the estimate, 0.77 %, is inside it: more tokens narrow the interval)."
    ]
    unknown = refused(selected=wide | {"perplexity_drift": None})
    assert "estimate" not in refusals(unknown)[0]


def test_each_budget_that_was_exceeded_is_told() -> None:
    told = refusals(refused(budget={"perplexity": 0.01, "kl": 0.02}))
    assert told[1] == "The KL divergence is 0.04 nats a token; the budget is 0.02."
    assert refusals(refused(budget={"perplexity": 0.05, "kl": 0.02})) == told[1:]


def test_of_several_texts_only_those_over_their_own_budget_are_named() -> None:
    point = refused().selected.model_dump()
    inside = {"name": "corpus", "digest": "cd" * 32, "evaluation_tokens": 8192, "evaluation_windows": 16}
    inside |= {"budget": {"perplexity": 0.2, "kl": None}, "baseline": {"perplexity": 200.0}, "curve": []}
    inside |= {"selected": point, "stored": None}
    stored = {"perplexity_drift": 0.2, "perplexity_drift_low": 0.1, "perplexity_drift_high": 0.25}
    over = inside | {"name": "code", "stored": stored}
    assert refusals(refused(corpora=[inside, over])) == [
        "The perplexity on code may grow by 25 % (upper end of the 95 % interval); the budget is 20 %."
    ]


def test_a_drift_that_is_no_number_and_a_gap_between_groups_are_told() -> None:
    report = refused(
        budget={"perplexity": 0.01, "kl": None, "group_gap": 0.02},
        group_gap={"most": "de", "least": "en", "gap": 0.03, "low": 0.01, "high": 0.05},
        selected=refused().selected.model_dump() | {"perplexity_drift_high": None},
    )
    assert refusals(report) == [
        "The drift of perplexity is no finite number; the budget is 1 %.",
        "The drift of de and en may lie 5 % apart; the budget for groups is 2 %.",
    ]


@pytest.mark.parametrize(("budget", "passes"), [(None, None), ({"perplexity": 0.1}, True)])
def test_a_comparison_without_a_budget_or_inside_it_is_not_refused(budget: Any, passes: Any) -> None:
    assert refusals(compare_report(budget=budget, passes=passes)) == []


def test_a_comparison_over_both_budgets_tells_both() -> None:
    report = compare_report(
        budget={"perplexity": 0.01, "kl": 0.02},
        passes=False,
        baseline={"perplexity": 200.0, "kind": "pseudo-perplexity"},
    )
    perplexity, kl = refusals(report)
    assert perplexity.startswith("The pseudo-perplexity may grow by 5 %")
    assert kl == "The KL divergence is 0.1 nats a token; the budget is 0.02."


def test_tokens_that_changed_and_rare_tokens_are_told_where_they_are_bounded() -> None:
    bands = [
        make_part(band="all", tokens=1000, top1_agreement=0.9),
        make_part(band="the rest", tokens=900, perplexity_drift_high=0.3),
    ]
    budget = {"perplexity": None, "kl": None, "top1": 0.95, "rare_perplexity": 0.1}
    assert refusals(compare_report(budget=budget, passes=False, bands=bands)) == [
        "The most probable token stays the same at 90.00% of positions; the budget is 95.00%.",
        "The perplexity of the rarest tokens may grow by 30 % (upper end of the 95 % interval); the budget is 10 %.",
    ]


def test_steering_is_refused_for_its_kl_alone() -> None:
    assert refusals(steer_report(kl_mean=0.5, max_kl=0.1)) == [
        "The KL divergence is 0.5 nats a token; the budget is 0.1."
    ]
    assert refusals(steer_report(kl_mean=0.5, max_kl=None)) == []
