"""The summary is taken from the report, and a report is always JSON."""

from headroom.contract.report.report import open_report
from service.reports.summaries import summarize, with_timing
from tests.reports import compress_report, make_analysis, make_dynamics

SELECTED = {
    "ratio": 0.3,
    "kept_columns": 224,
    "perplexity": 213.1,
    "perplexity_drift": 0.0003,
    "perplexity_drift_low": 0.0001,
    "perplexity_drift_high": 0.0005,
    "kl_mean": 0.002,
    "kl_p95": 0.01,
    "kl_p99": 0.02,
    "top1_agreement": 0.98,
    "passes": True,
}


FURTHER = {"ratio": 0.5, "kept_columns": 160, "passes": False, "perplexity_drift": 0.2}


def test_the_summary_names_every_figure_of_the_report() -> None:
    interval = {"perplexity_drift_low": 0.1, "perplexity_drift_high": 0.3, "kl_mean": 0.1, "top1_agreement": 0.9}
    sizes = {"checkpoint_before": 9, "checkpoint_after": 8, "head_before": 7, "head_after": 5, "decode_read_before": 9}
    report = compress_report(
        head={"vocab_size": 1000, "hidden_size": 320, "tied": True},
        baseline={"perplexity": 213.0},
        selected=SELECTED,
        bytes=sizes,
        largest_passing_ratio=0.8,
        revisions=[{"name": "k160", "path": "revisions/k160", "checkpoint_bytes": 8} | FURTHER | interval],
    )

    assert summarize(report).model_dump(mode="json") == {
        "revisions": [{"name": "k160"} | FURTHER],
        "ratio": 0.3,
        "kept_columns": 224,
        "hidden_size": 320,
        "perplexity_before": 213.0,
        "perplexity_after": 213.1,
        "perplexity_drift": 0.0003,
        "perplexity_drift_low": 0.0001,
        "perplexity_drift_high": 0.0005,
        "kl_mean": 0.002,
        "top1_agreement": 0.98,
        "passes": True,
        "largest_passing_ratio": 0.8,
        "refusals": [],
        "rejected_for": None,
        "checkpoint_bytes_before": 9,
        "checkpoint_bytes_after": 8,
        "head_bytes_before": 7,
        "head_bytes_after": 5,
    }


def test_what_was_not_measured_is_none_in_the_summary() -> None:
    sizes = {"checkpoint_before": 9, "head_before": 7, "decode_read_before": 9}
    figures = summarize(compress_report(largest_passing_ratio=None, bytes=sizes))

    assert figures.perplexity_before == 200.0
    assert figures.largest_passing_ratio is None
    assert figures.checkpoint_bytes_after is None


def test_time_the_engine_did_not_see_is_added_to_the_total() -> None:
    report = compress_report(timing={"encoding": 2.0, "total": 5.0})

    assert with_timing(report, "fetching", 1.5).timing == {"fetching": 1.5, "encoding": 2.0, "total": 6.5}
    assert report.timing == {"encoding": 2.0, "total": 5.0}


def test_a_training_is_summed_up_by_its_last_state_and_the_first_that_tells() -> None:
    assert summarize(open_report(make_dynamics())).model_dump() == {
        "loss": 5.0,
        "r2": 0.55,
        "spearman": 0.55,
        "readable_at": 1,
        "loss_fallen": 0.5,
    }


def test_an_analysis_is_summed_up_by_its_encoding() -> None:
    figures = {"r2": 0.9, "r2_adjusted": 0.89, "r2_held_out": 0.88, "spearman": 0.8, "slope_cosine_mean_hidden": 0.7}

    assert summarize(open_report(make_analysis())).model_dump() == figures
