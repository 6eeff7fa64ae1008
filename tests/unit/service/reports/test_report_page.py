"""The page of a report: whole in itself, true to the report, and plots that plotly itself accepts."""

import json
import math
import re
from typing import Any

import pytest
from jinja2 import UndefinedError
from plotly.graph_objects import Figure

from headroom.contract.report.report import CompressReport, open_report
from service.reports.encoding_figures import components_figure, fitted_figure, slopes_figure
from service.reports.page_parts import Page, written
from service.reports.report_figures import bytes_figure, drift_figure, perplexity_figure
from service.reports.report_page import write_page
from service.reports.rollout import roll_out
from tests.reports import compress_report, make_analysis, make_comparison, make_dynamics, make_frontier, make_steering


@pytest.fixture
def report() -> CompressReport:
    return make_measured()


def make_measured(**parts: Any) -> CompressReport:
    report = compress_report({0.1: 0.0001, 0.3: 0.0008, 0.5: 0.004, 0.7: 0.02}, **parts)
    return report.model_copy(update={"rollout": roll_out(report, can_widen=True)})


def figures_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    figures: dict[str, Any] = json.loads(found[1])
    return figures


@pytest.mark.parametrize("make", [drift_figure, perplexity_figure, bytes_figure])
def test_plotly_accepts_every_figure(make: Any, report: CompressReport) -> None:
    Figure(make(report))  # raises for a property or value that plotly does not know


@pytest.mark.parametrize("met", [True, False])
def test_the_page_of_a_budget_marks_the_chosen_or_the_nearest_head_and_the_plain_ones(
    report: CompressReport, met: bool
) -> None:
    frontier = make_frontier([point.model_dump() for point in report.curve])
    if not met:
        frontier["points"][-1]["chosen"], frontier["nearest"] = False, frontier["points"][-1]
    page = write_page(make_measured(frontier=frontier))
    figure = figures_of(page)["frontier"]
    Figure(figure)
    by_name = {trace["name"]: trace for trace in figure["data"]}
    assert by_name["all columns, rounded"]["x"] == [0.53, 0.3]
    assert by_name["chosen" if met else "nearest"]["x"] == [0.1]
    assert "the least KL at 0.25 of the head&#39;s bytes read" in page
    assert "3 rounded heads; 1 could not be best" in page
    assert page.count("<td>0.900</td>") == 0  # another head is better in both


@pytest.mark.parametrize(
    ("make", "part"), [(slopes_figure, "encoding"), (components_figure, "components"), (fitted_figure, "fitted")]
)
def test_plotly_accepts_every_figure_of_an_analysis(make: Any, part: str) -> None:
    Figure(make(getattr(open_report(make_analysis()), part)))


def test_the_page_of_an_analysis_shows_components_fits_and_what_is_needed() -> None:
    page = write_page(open_report(make_analysis()))

    assert set(figures_of(page)) == {"slopes", "components", "fitted"}
    assert "Of the columns, largest slope first: 2 reach 90%, 3 reach 95%, 3 reach 99% of the R² of all." in page
    assert "From a few tokens of text" in page
    assert "0.9000" in page  # R^2
    assert "<td>1</td><td>-0.500</td><td>-0.300</td></tr><tr><td>2</td>" in page  # columns, the largest slope first
    assert "<td>1</td><td>+0.600</td><td>+0.500</td><td>20.00%</td>" in page


def test_the_page_of_a_training_shows_every_checkpoint_and_the_first_that_tells() -> None:
    page = write_page(open_report(make_dynamics()))

    Figure(figures_of(page)["dynamics"])
    assert "step-2 is the first to reach 90% of the last Spearman, when 50% of the fall of the loss was done." in page
    assert page.count("<tr class=chosen><td>step-2</td>") == 1


def test_every_figure_has_its_place_on_the_page(report: CompressReport) -> None:
    page = write_page(report)

    assert set(figures_of(page)) == {"drift", "perplexity", "slopes", "fitted", "bytes"}
    assert all(f'id="{name}"' in page for name in figures_of(page))


def test_the_page_loads_nothing_from_elsewhere(report: CompressReport) -> None:
    page = write_page(report)

    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page)


def test_the_drift_plot_shows_the_kl_of_the_chosen_method_and_of_the_others_and_its_budget() -> None:
    report = make_measured(budget={"perplexity": 0.01, "kl": 0.02})
    figure = drift_figure(report)

    assert [trace["name"] for trace in figure["data"]] == ["probability", "slope", "chosen"]
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert figure["layout"]["shapes"][0]["y0"] == 0.02
    assert figure["layout"]["annotations"][0]["y"] == pytest.approx(math.log10(0.02))
    assert figure["data"][0]["y"] == [point.kl_mean for point in report.curve]


def test_a_fall_of_perplexity_is_drawn_below_the_zero_of_an_axis_that_grows_with_every_drift() -> None:
    figure = perplexity_figure(compress_report({0.1: -0.001, 0.3: 0.0, 0.5: 0.004, 0.9: 3.0}))
    heights = figure["data"][1]["y"]

    assert heights[0] == -math.asinh(1)
    assert heights[1] == 0
    assert heights == sorted(heights)
    axis = figure["layout"]["yaxis"]
    assert {"-0.1 %", "0", "+1 %", "+100 %"} <= set(axis["ticktext"])
    assert axis["tickvals"][axis["ticktext"].index("+1 %")] == figure["layout"]["shapes"][0]["y0"]


def test_a_budget_that_bounds_nothing_has_no_line() -> None:
    report = make_measured(budget={"perplexity": None, "kl": None})

    assert "shapes" not in drift_figure(report)["layout"]
    assert "shapes" not in perplexity_figure(report)["layout"]


def test_slopes_are_sorted_by_magnitude(report: CompressReport) -> None:
    assert slopes_figure(report.encoding)["data"][0]["y"] == [2.0, 1.0, 0.5]


def test_a_job_that_stored_nothing_has_no_plot_of_bytes(report: CompressReport) -> None:
    sizes, selected = report.bytes.model_dump(), report.selected.model_dump()
    page = write_page(make_measured(bytes=sizes | {"head_after": None}, selected=selected | {"passes": False}))

    assert set(figures_of(page)) == {"drift", "perplexity", "slopes", "fitted"}
    assert "<strong>Refused.</strong>" in page
    assert "Roll-out" not in page


def test_what_a_model_is_called_cannot_become_markup() -> None:
    page = write_page(make_measured(warnings=["</script><script>alert(1)</script>"], method="</script><b>"))

    assert "alert(1)</script>" not in page.replace("&lt;", "<").split("<main>")[0]
    assert "<script>alert(1)" not in page
    assert "</script><b>" not in page


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({}, "<strong>Inside the budget.</strong> 50.0% of the head&#39;s columns removed: perplexity +0.400%"),
        ({"passes": False}, "<strong>Refused.</strong> With 50.0% of the head&#39;s columns removed: perplexity"),
        (
            {"kept_columns": 100, "head_dtype": "int8"},
            "<strong>Inside the budget.</strong> All of the head&#39;s columns kept, as 8-bit integers: perplexity",
        ),
        ({"worth": True}, "<strong>Not worth storing.</strong> With 50.0% of the head&#39;s columns removed: perplex"),
        (
            {"kept_columns": 100, "head_dtype": "planes", "bits": 8},
            "</strong> The head is stored in bit planes of 8-bit numbers, 32 columns of them whole. All logits are "
            "exact to 8 bits: perplexity",
        ),
        (
            {"kept_columns": 100, "head_dtype": "planes", "passes": False},
            "<strong>Refused.</strong> With the head in bit planes, 32 columns of them whole: perplexity",
        ),
    ],
    ids=["stored", "refused", "all columns", "not worth it", "planes", "planes refused"],
)
def test_the_verdict_says_columns_are_removed_only_where_they_are(parts: dict[str, Any], told: str) -> None:
    selected = make_measured().selected.model_dump()
    selected |= {name: parts[name] for name in ("passes", "kept_columns") if name in parts}
    more: dict[str, Any] = {"head_dtype": parts.get("head_dtype", "source")}
    if more["head_dtype"] == "planes":
        more["planes"] = {"bits": parts.get("bits"), "whole_columns": 32, "tau": 0.5, "held_out": 9, "curve": []}
    if "worth" in parts:
        shares = dict.fromkeys(("removed", "head_share", "decode_read_share", "checkpoint_share"), 0.99)
        more["worth"] = shares | {"worth_it": False, "decides": True, "sentence": "It saves nothing."}
    assert told in write_page(make_measured(selected=selected, **more))


def test_a_name_that_a_template_lacks_is_an_error(report: CompressReport) -> None:
    with pytest.raises(UndefinedError, match="verdict"):
        written(Page("compress.html", {}), report)


def test_steering_and_a_comparison_have_their_pages() -> None:
    steered, compared = write_page(open_report(make_steering())), write_page(open_report(make_comparison()))

    assert set(figures_of(steered)) == {"alone", "slopes", "fitted"}
    assert "<td>five</td><td>5</td><td>2</td><td>1.9</td><td>-0.050</td>" in steered
    assert "Measured, no budget" in compared
    assert "acme/other" in compared
