"""Tables and sentences, read back as text."""

import io
import re
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from headroom.contract.answers.dry_run import DryRunView
from headroom.contract.answers.job import JobView
from headroom.contract.report.report import AnalyzeReport, CompressReport, DynamicsReport
from headroom.views.compression_view import bytes_view, drift_view
from headroom.views.drift_parts import bands_view, corpora_view, groups_view, revisions_view
from headroom.views.dynamics_view import dynamics_view
from headroom.views.encoding_view import encoding_view
from headroom.views.frontier_view import frontier_view
from headroom.views.job_views import dry_run_view, job_view, jobs_table, verdict
from headroom.views.rendering import console_for, show
from tests.factories import job_told
from tests.reports import compress_report, make_analysis, make_dynamics, make_frontier, make_part, opened
from tests.reports import make_report as make_whole_report

JOB_ID = "job_" + "0" * 32


def make_point(ratio: float, drift: float | None) -> dict[str, Any]:
    return {
        "ratio": ratio,
        "kept_columns": round(320 * (1 - ratio)),
        "perplexity": None if drift is None else 200 * (1 + drift),
        "perplexity_drift": drift,
        "perplexity_drift_low": drift,
        "perplexity_drift_high": drift,
        "kl_mean": drift,
        "kl_p95": drift,
        "kl_p99": drift,
        "top1_agreement": 0.99,
    }


def make_report(selected: float, *points: tuple[float, float | None], passes: bool = True) -> CompressReport:
    curve = [make_point(ratio, drift) for ratio, drift in points]
    chosen = next(point for point in curve if point["ratio"] == selected) | {"passes": passes}
    corpus = compress_report().corpus.model_copy(update={"evaluation_tokens": 32768}).model_dump()
    return compress_report(corpus=corpus, curve=curve, selected=chosen)


def make_result(**fields: Any) -> dict[str, Any]:
    base = {
        "passes": True,
        "ratio": 0.5,
        "kept_columns": 160,
        "hidden_size": 320,
        "perplexity_before": 200.0,
        "perplexity_after": 201.0,
        "perplexity_drift": 0.005,
        "perplexity_drift_low": 0.004,
        "perplexity_drift_high": 0.006,
        "largest_passing_ratio": 0.5,
        "checkpoint_bytes_before": 27_300_000,
        "checkpoint_bytes_after": 26_000_000,
        "head_bytes_before": 10_485_760,
        "head_bytes_after": 5_242_880,
    }
    return base | fields


def make_record(**fields: Any) -> JobView:
    base = {
        "id": JOB_ID,
        "kind": "compress",
        "status": "succeeded",
        "phase": None,
        "progress": 1.0,
        "model": {"id": "acme/tiny", "revision": None},
        "ratio": "auto",
        "method": "probability",
        "corpus": "corpus_1",
        "drift": {"perplexity": 0.01, "kl": None},
        "result": make_result(),
    }
    return JobView.read(job_told(**base | fields))


def text_of(*views: RenderableType, width: int | None = None) -> str:
    console = console_for(io.StringIO())
    if width:
        console.width = width
    show(console, *views)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row_of(text: str, ratio: str) -> str:
    return next(line for line in text.splitlines() if f" {ratio} " in line)


def test_the_chosen_row_is_marked() -> None:
    text = text_of(drift_view(make_record(), make_report(0.5, (0.3, 0.001), (0.5, 0.006), (0.7, 0.02))))
    assert row_of(text, "0.50").split() == [
        *("▶", "0.50", "160", "201.20", "+0.600", "+0.600", "…", "+0.600", "0.00600", "99.00")
    ]
    assert "▶" not in row_of(text, "0.30") + row_of(text, "0.70")
    assert "32,768 evaluation tokens" in text
    assert "allowed +1.00 %" in text


def test_a_rejected_row_and_the_one_that_would_have_passed_are_marked() -> None:
    result = make_result(passes=False, ratio=0.7, perplexity_drift_high=0.02, largest_passing_ratio=0.5)
    job = make_record(status="rejected", result=result)
    text = text_of(drift_view(job, make_report(0.7, (0.5, 0.006), (0.7, 0.02), passes=False)), verdict(job))
    assert row_of(text, "0.70").lstrip().startswith("✗")
    assert row_of(text, "0.50").lstrip().startswith("✓")
    assert (
        "at ratio 0.7 perplexity may grow by 2.00 %, allowed are 1.00 %; the largest ratio that passes is 0.5" in text
    )


def test_a_rejection_for_its_divergence_names_the_divergence() -> None:
    result = make_result(passes=False, perplexity_drift_high=-0.001, kl_mean=0.02)
    job = make_record(status="rejected", result=result, drift={"perplexity": 0.01, "kl": 0.01})
    text = text_of(verdict(job))
    assert "at ratio 0.5 the KL divergence is 0.02 nats, allowed are 0.01" in text
    assert "perplexity" not in text


def test_a_rejection_is_told_in_the_sentences_of_the_server() -> None:
    told = ["The KL divergence is 0.04 nats a token; the budget is 0.01.", "The perplexity may grow by 4 %."]
    record = make_record(status="rejected", result=make_result(passes=False) | {"refusals": told})
    text = text_of(verdict(record))
    assert "at ratio 0.5 the KL divergence is 0.04 nats a token; the budget is 0.01, and the perplexity may" in text


def test_a_rejection_with_nothing_that_passes_says_so() -> None:
    job = make_record(status="rejected", result=make_result(passes=False, largest_passing_ratio=None))
    assert "no measured ratio passes" in text_of(verdict(job))


def test_infinite_figures_are_shown_as_absent() -> None:
    job = make_record(result=make_result(passes=False, perplexity_drift=None, perplexity_drift_high=None))
    text = text_of(drift_view(job, make_report(0.7, (0.5, 0.006), (0.7, None))), verdict(job), job_view(job))
    assert row_of(text, "0.70").split()[3:5] == ["-", "-"]


def test_the_table_fits_a_terminal_of_eighty_columns() -> None:
    text = text_of(drift_view(make_record(), make_report(0.9, (0.05, 0.0001), (0.9, 3.58))), width=80)
    assert "+358.000 … +358.000" in text
    assert "…  " not in row_of(text, "0.90")  # nothing was cut off
    assert max(map(len, text.splitlines())) <= 80


def test_a_narrow_list_keeps_whole_ids() -> None:
    jobs = [make_record(model={"id": "acme/" + "x" * 60, "revision": None})]
    assert JOB_ID in text_of(jobs_table(jobs, 80), width=80)
    wide = text_of(jobs_table(jobs, 200))
    assert "x" * 60 in wide
    assert "+0.500 %" in wide


def test_bytes_are_shown_before_and_after() -> None:
    sizes = {"head_before": 10_485_760, "head_after": 5_242_880, "decode_read_before": 20_000_000}
    sizes |= {"checkpoint_before": 27_300_000}
    text = text_of(bytes_view(compress_report(bytes=sizes | {"checkpoint_after": 26_000_000})))
    assert text.splitlines() == ["Head, read  10.5 MB → 5.24 MB  -50.0 %", "Checkpoint  27.3 MB → 26.0 MB  -4.76 %"]
    assert "Checkpoint" not in text_of(bytes_view(compress_report(bytes=sizes | {"checkpoint_after": None})))


def test_a_failed_job_shows_its_error_without_control_characters() -> None:
    error = {"code": "unsafe_model", "message": "bad \x1b[2Jname", "phase": "fetching"}
    text = text_of(job_view(make_record(status="failed", result=None, error=error)))
    assert "[unsafe_model] bad \ufffd[2Jname" in text


def test_a_label_is_not_read_as_markup() -> None:
    text = text_of(job_view(make_record(labels={"team": "[red]x[/red]"})))
    assert "team=[red]x[/red]" in text


def test_a_pipe_gets_no_trailing_spaces_and_no_wrapped_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    long_words = "word " * 60
    with path.open("w") as stream:
        show(console_for(stream), drift_view(make_record(), make_report(0.5, (0.5, 0.006))), long_words.strip())
    lines = path.read_text().splitlines()
    assert lines[-1] == long_words.strip()
    assert all(line == line.rstrip() for line in lines)


def test_a_dry_run_tells_what_is_known_and_skips_the_rest() -> None:
    model = {"id": "acme/tiny", "revision": None, "bytes": 9_000_000, "dtype": "bfloat16"}
    head = {"vocab_size": 8192, "hidden_size": 256, "tied": True, "bytes": 4_194_304}
    estimate = {"kept_columns": None, "head_bytes_after": None, "seconds": 42.0, "memory_bytes": 700_000_000}
    estimate["least_memory_bytes"] = 650_000_000
    told = {"valid": True, "model": model, "head": head, "estimate": estimate}
    text = text_of(dry_run_view(DryRunView.read(told)))
    assert "acme/tiny 9.00 MB bfloat16" in text
    assert "8,192 x 256, tied, 4.19 MB" in text
    assert "Head after" not in text
    assert "or 650 MB, reading the model from disk layer by layer" in text
    assert "no job was made" in text


def test_a_terminal_is_left_to_rich() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system="standard")
    show(console, verdict(make_record()))
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[1;32mSucceeded" in console.file.getvalue()


def test_bands_stand_in_a_table_and_one_without_positions_shows_no_figures() -> None:
    figures = {"perplexity_drift": 0.01, "perplexity_drift_low": 0.002, "perplexity_drift_high": 0.02, "kl_mean": 0.003}
    figures |= {"kl_p99": 0.04, "top1_agreement": 0.97, "top5_overlap": 0.95}
    bands = [
        make_part(band="all", tokens=1000, positions=4096, **figures),
        make_part(band="rest", tokens=900, positions=0),
    ]
    rows = {
        row[0]: " ".join(row[1:])
        for line in text_of(bands_view(compress_report(bands=bands))).splitlines()
        if (row := line.split())
    }
    assert rows["all"] == "4,096 +1.000 +0.200 … +2.000 0.00300 0.04000 97.00 95.00"
    assert rows["rest"] == "0 - - … - - - - -"
    assert not text_of(bands_view(compress_report())).strip()


def test_a_budget_shows_what_it_compared_and_marks_the_chosen_head() -> None:
    assert text_of(frontier_view(compress_report())).strip() == ""
    frontier = make_frontier(make_whole_report(drifts={0.1: 0.0001, 0.5: 0.004}, chosen=0.5)["curve"])
    text = text_of(frontier_view(compress_report(frontier=frontier)))
    assert "the least KL at 0.25 of the head's bytes read: 2 sizes of the curve, 3 rounded heads measured" in text
    (chosen,) = [line for line in text.splitlines() if "▶" in line]
    assert "4 bits" in chosen
    assert text.count("all columns") == 2
    frontier["points"][-1]["chosen"], frontier["nearest"] = False, frontier["points"][-1]
    assert "nearest" in text_of(frontier_view(compress_report(frontier=frontier)))


def test_each_corpus_has_its_line_and_verdict_and_one_alone_has_no_table() -> None:
    point = make_point(0.5, 0.01)
    one = {"evaluation_tokens": 4096, "baseline": {"perplexity": 200.0}, "budget": {"perplexity": 0.02}}
    one |= {"outside_share": 0.011, "stored": None, "digest": "ef" * 32, "evaluation_windows": 8, "curve": [point]}
    corpora = [
        one | {"name": "corpus", "selected": point | {"passes": True}},
        one | {"name": "prose", "selected": point | {"passes": False}},
    ]
    text = text_of(corpora_view(compress_report(corpora=corpora)))
    found = {row[0]: " ".join(row[1:]) for line in text.splitlines() if (row := line.split())}
    assert found["corpus"] == "4,096 200.00 +1.000 +1.000 … +1.000 +2.000 0.01000 99.00 1.1 passes"
    assert found["prose"].endswith("over")
    assert not text_of(corpora_view(compress_report(corpora=corpora[:1]))).strip()


def test_groups_are_shown_with_their_widest_gap() -> None:
    figures = {"perplexity_drift": 0.01, "perplexity_drift_low": 0.0, "perplexity_drift_high": 0.02, "kl_mean": 0.003}
    groups = [make_part(group=name, windows=8, **figures) for name in ("en", "fr")]
    gap = {"most": "fr", "least": "en", "gap": 0.03, "low": 0.01, "high": 0.05}
    text = text_of(groups_view(compress_report(groups=groups, group_gap=gap)))
    assert "widest gap +3.000 points (+1.000 … +5.000), between fr and en" in text
    assert [line.split()[0] for line in text.splitlines() if line.strip().startswith(("en ", "fr "))] == ["en", "fr"]
    assert not text_of(groups_view(compress_report())).strip()


def test_every_checkpoint_has_its_line_and_the_first_that_tells_is_marked() -> None:
    text = text_of(dynamics_view(opened(DynamicsReport, make_dynamics())))
    assert "over training, from 12,288 tokens, 321 different ones" in text
    assert [line.split()[0] for line in text.splitlines() if "0.990" in line] == ["step-1", "▶", "acme/tiny"]
    assert "▶ step-2" in " ".join(text.split())
    assert "50% of the fall of the loss was done then" in text


def test_an_analysis_names_the_largest_columns_and_what_is_needed() -> None:
    text = text_of(encoding_view(opened(AnalyzeReport, make_analysis())))
    found = {name.strip(): rest.strip() for line in text.splitlines() for name, _, rest in [line.partition("  ")]}
    assert found["largest slopes, columns"].startswith("1 (-0.50, Spearman -0.30), 2 (+0.20")
    assert found["components needed, share of R²"] == "2 for 90%, 3 for 95%, 3 for 99%"
    assert found["from 64 tokens"] == "R² 0.3000, cosine with the slope of all 0.8000"


def test_further_revisions_are_told_with_their_verdicts() -> None:
    drift = {"perplexity_drift": 0.02, "perplexity_drift_low": 0.01, "perplexity_drift_high": 0.03}
    point = {"name": "k8", "kept_columns": 8, "kl_mean": 0.1, "top1_agreement": 0.9, "passes": False} | drift
    point |= {"path": "revisions/k8", "ratio": 0.5, "checkpoint_bytes": 8}
    text = text_of(revisions_view(compress_report(revisions=[point | {"name": "k16", "passes": True}, point])))
    assert re.search(r"k16 .*passes", text)
    assert re.search(r"k8 .*\+1\.000 … \+3\.000.*over", text)
    assert not text_of(revisions_view(compress_report())).strip()
