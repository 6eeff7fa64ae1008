"""Jobs and reports as terminal text. It builds what to show; it asks no server and decides no exit code.

The tables are the same on a terminal, in a pipe and in a file; colour comes and goes with the console.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from headroom.contract.answers.dry_run import DryRunView
from headroom.contract.answers.job import JobView
from headroom.contract.answers.results import CompressResult
from headroom.contract.report.curve import CurvePoint, JudgedPoint
from headroom.contract.report.encoding import ColumnFigures, Sparsity
from headroom.contract.report.report import AnalyzeReport, CompressReport, Report, SteerReport
from headroom.contract.report.times import StepTime, TimesOfReport
from headroom.views.figures import age, duration, hundredfold, number, percent, printable, size

STATUS_STYLES = {
    "succeeded": "green",
    "rejected": "yellow",
    "failed": "red",
    "canceled": "dim",
    "running": "cyan",
    "canceling": "dim",
    "queued": "blue",
}
WIDE = 96
PIPE_WIDTH = 1000  # of a console that is no terminal: nothing is wrapped there


def console_for(stream: Any) -> Console:
    """A console that does not guess at highlights."""
    console = Console(file=stream, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def show(console: Console, *views: RenderableType) -> None:
    """Print; in a pipe or file without the spaces that fill up a line."""
    if console.is_terminal:
        console.print(*views, sep="\n")
        return
    with console.capture() as captured:
        console.print(*views, sep="\n")
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def figures_table() -> Table:
    """Columns of figures under bold headings."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def _pairs() -> Table:
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))


def drift_view(job: JobView, report: CompressReport) -> RenderableType:
    """The drift table of a report, with what it was measured on and what was allowed."""
    budget = job.told.get("drift") or {}
    tokens = report.corpus.evaluation_tokens
    before = f"{report.baseline.kind} {number(report.baseline.perplexity, ',.2f')} before"
    caption = Text.assemble(
        ("Drift", "bold"),
        f" on {tokens:,} evaluation tokens, method {report.method}, {before}; allowed {allowed(budget)}",
    )
    return Group(caption, _curve_table(job, report.curve, report.selected, budget))


def encoding_view(report: AnalyzeReport) -> RenderableType:
    """How well the rows of the head tell a token's averaged probability."""
    encoding, corpus = report.encoding, report.corpus
    caption = Text.assemble(
        ("Encoding", "bold"), f" of token probability in the output head, on {corpus.calibration_tokens:,} tokens"
    )
    table = _pairs()
    figures = {
        "R²": encoding.r2,
        "R², adjusted": encoding.r2_adjusted,
        "R², held-out rows": encoding.r2_held_out,
        "Spearman, fitted against true": encoding.spearman,
        "cosine of the slope with -mean(h)": encoding.slope_cosine_mean_hidden,
    }
    for name, value in figures.items():
        table.add_row(name, number(value, ".4f"))
    sparsities: list[tuple[str, Sparsity]] = [("columns", encoding), ("components", report.components)]
    for what, found in sparsities:
        needed = ", ".join(f"{count:,} for {share:.0%}" for share, count in _needed(found))
        table.add_row(f"{what} needed, share of R²", needed)
        table.add_row(f"Gini of the slopes of {what}", number(found.gini, ".4f"))
    for what, slopes in (("columns", report.columns), ("components", report.components)):
        table.add_row(f"largest slopes, {what}", _largest(slopes))
    for fit in report.few_examples:
        told = f"R² {number(fit.r2, '.4f')}, cosine with the slope of all {number(fit.slope_cosine, '.4f')}"
        table.add_row(f"from {fit.tokens:,} tokens", told)
    return Group(caption, table)


def _largest(found: ColumnFigures) -> str:
    """The largest standardised slopes: number, slope and rank correlation."""
    slopes, rho = found.standardised_slopes, found.spearman
    order = sorted(range(len(slopes)), key=lambda index: -abs(slopes[index] or 0))[:3]
    return ", ".join(f"{i} ({number(slopes[i], '+.2f')}, Spearman {number(rho[i], '+.2f')})" for i in order)


def _needed(found: Sparsity) -> list[tuple[float, int]]:
    return [(float(share), count) for share, count in found.columns_needed.items()]


def allowed(budget: Mapping[str, Any]) -> str:
    """Every bound of a budget, in words."""
    limits = []
    if budget.get("perplexity") is not None:
        limits.append(percent(budget["perplexity"]))
    if budget.get("kl") is not None:
        limits.append(f"KL {budget['kl']:g}")
    if budget.get("top1") is not None:
        limits.append(f"{budget['top1']:.2%} the same top token")
    if budget.get("rare_perplexity") is not None:
        limits.append(f"{percent(budget['rare_perplexity'])} on rare tokens")
    if budget.get("group_gap") is not None:
        limits.append(f"{percent(budget['group_gap'])} between groups")
    return " and ".join(limits) or "anything"


def _curve_table(job: JobView, curve: Sequence[CurvePoint], selected: JudgedPoint, budget: Mapping[str, Any]) -> Table:
    table = figures_table()
    table.add_column("")
    for name in ("ratio", "kept", "perplexity", "drift, %", "95 % interval", "KL, nats", "top-1, %"):
        table.add_column(name, justify="right", no_wrap=True)
    fallback = job.compressed.largest_passing_ratio if job.compressed and not job.compressed.passes else None
    points = sorted(curve, key=lambda point: point.ratio)
    low_width = max((len(drift_percent(point.perplexity_drift_low)) for point in points), default=0)
    high_width = max((len(drift_percent(point.perplexity_drift_high)) for point in points), default=0)
    for point in points:
        chosen = point.kept_columns == selected.kept_columns
        fits = selected.passes if chosen else _fits(point, budget)
        mark, style = _mark(chosen, fits, point.ratio == fallback)
        low, high = drift_percent(point.perplexity_drift_low), drift_percent(point.perplexity_drift_high)
        table.add_row(
            mark,
            f"{point.ratio:.2f}",
            f"{point.kept_columns:,}",
            number(point.perplexity, ",.2f"),
            drift_percent(point.perplexity_drift),
            f"{low:>{low_width}} … {high:>{high_width}}",
            number(point.kl_mean, ".5f"),
            number(hundredfold(point.top1_agreement), ".2f"),
            style=style,
        )
    return table


def drift_percent(fraction: float | None) -> str:
    """Per cent with as many decimals in every row, so that a column can be read at a glance."""
    return number(hundredfold(fraction), "+,.3f")


def _fits(point: CurvePoint, budget: Mapping[str, Any]) -> bool:
    """The gate's rule, for colours only: the upper end of the interval is inside."""
    least, same = budget.get("top1"), point.top1_agreement
    measured = (
        (point.perplexity_drift_high, budget.get("perplexity")),
        (point.kl_mean, budget.get("kl")),
        (point.rare_perplexity_drift_high, budget.get("rare_perplexity")),
    )
    kept = least is None or (same is not None and same >= least)
    return kept and all(limit is None or (value is not None and value <= limit) for value, limit in measured)


def _mark(chosen: bool, fits: bool, is_fallback: bool) -> tuple[str, str]:
    if chosen:
        return ("▶", "bold green") if fits else ("✗", "bold red")
    if is_fallback:
        return "✓", "green"
    return ("", "") if fits else ("", "dim")


def bytes_view(report: CompressReport) -> RenderableType:
    """Bytes and times before and after, as far as the report knows them: a rejected job has no checkpoint."""
    table = _pairs()
    sizes = report.bytes
    for name, before, after in (
        ("Head, read", sizes.head_before, sizes.head_after),
        ("Head, stored", sizes.stored_before, sizes.stored_after),
        ("Read per token", sizes.decode_read_before, sizes.decode_read_after),
        ("Checkpoint", sizes.checkpoint_before, sizes.checkpoint_after),
    ):
        if before and after is not None:
            table.add_row(Text(name, "bold"), f"{size(before)} → {size(after)}", percent(after / before - 1))
    for label, step in _steps(report.time):
        if step.before and step.after:
            took = f"{number(1000 * step.before, '.3g')} → {number(1000 * step.after, '.3g')} ms"
            table.add_row(Text(label, "bold"), took, percent(step.after / step.before - 1))
    return table


def _steps(times: TimesOfReport | None) -> list[tuple[str, StepTime]]:
    """Times of decoding: of the head alone, and of the whole model where it was timed."""
    if times is None:
        return []
    found: list[tuple[str, StepTime]] = [(f"Head, batch {one.batch}", one) for one in times.head]
    return found + ([("Whole step", times.step)] if times.step else [])


def remarks_view(report: Report) -> RenderableType:
    """What the report wants its reader to know: what makes the figures weak, and the plain alternative."""
    warnings = [Text(f"Note: {text}", "yellow") for text in report.warnings]
    advice = report.advice if isinstance(report, CompressReport) else ""
    return Group(*warnings, *([Text(advice)] if advice else []))


def verdict(job: JobView, perplexity: str = "perplexity") -> Text:
    """One sentence on how a finished job ended."""
    result = job.compressed
    if job.status == "succeeded" and result:
        if result.ratio == 0 and result.head_bytes_before and result.head_bytes_after:
            share = result.head_bytes_after / result.head_bytes_before
            return Text.assemble(
                ("Succeeded: ", "bold green"),
                f"all columns stay, and the head reads {share:.2f} of its bytes; {perplexity} "
                f"{percent(result.perplexity_drift)} (95 %: at most {percent(result.perplexity_drift_high)}), KL "
                f"{number(result.kl_mean, '.2g')}, the same most probable token at "
                f"{percent(result.top1_agreement, sign=False)}.",
            )
        return Text.assemble(
            ("Succeeded: ", "bold green"),
            f"{percent(result.ratio, sign=False)} of the head's columns removed, {result.kept_columns:,} of "
            f"{result.hidden_size:,} kept; {perplexity} {percent(result.perplexity_drift)} "
            f"(95 %: at most {percent(result.perplexity_drift_high)}).",
        )
    if job.status == "rejected" and result and result.rejected_for == "not_worth_it":
        sentences = result.refusals or ["what may go saves next to nothing: nothing was stored."]
        return Text.assemble(("Not worth storing: ", "bold yellow"), sentences[0][0].lower() + sentences[0][1:])
    if job.status == "rejected" and result:
        largest = result.largest_passing_ratio
        hint = f"the largest ratio that passes is {largest:g}" if largest is not None else "no measured ratio passes"
        if job.told.get("budget"):
            hint = "that is the nearest to the budget of all heads that were compared"
        where = f"at ratio {result.ratio:g}" if result.ratio else "with all columns kept"
        return Text.assemble(
            ("Rejected: ", "bold yellow"),
            f"{where} {_excess(job, result)}; {hint}. Nothing was written.",
        )
    return Text.assemble((f"{job.status.capitalize()}", f"bold {STATUS_STYLES.get(job.status, '')}"), ".")


def _excess(job: JobView, result: CompressResult) -> str:
    """What is over the budget: the server's sentences, or words of our own for a server that has none."""
    if told := result.refusals:
        return ", and ".join(sentence[0].lower() + sentence[1:].rstrip(".") for sentence in told)
    budget = job.told.get("drift") or {}
    limit, high = budget.get("perplexity"), result.perplexity_drift_high
    reasons = []
    if limit is not None and (high is None or high > limit):
        reasons.append(f"perplexity may grow by {percent(high, sign=False)}, allowed are {percent(limit, sign=False)}")
    limit = budget.get("kl")
    if limit is not None and (result.kl_mean is None or result.kl_mean > limit):
        reasons.append(f"the KL divergence is {number(result.kl_mean, '.3g')} nats, allowed are {limit:g}")
    others = ["the drift on another corpus"] if job.told.get("evaluation") else []
    others += ["the gap between groups"] if budget.get("group_gap") is not None else []
    return " and ".join(reasons) or f"{' or '.join(others) or 'the drift'} is over its budget"


def places_view(folder: Path, report: CompressReport | SteerReport) -> RenderableType:
    """Where the results are, and how to use them."""
    table = _pairs()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text("Checkpoint in", "bold"), Text(str(folder)))
    table.add_row(Text("Report in", "bold"), Text(str(folder / "report.html")))
    is_sliced = isinstance(report, CompressReport)
    for export in report.exports if isinstance(report, CompressReport) else ():
        table.add_row(Text(f"Export, {export.kind}", "bold"), Text(str(folder / export.path)))
    load = f'{"import headroom; " if is_sliced else ""}{report.model.auto_class}.from_pretrained("{folder}")'
    table.add_row(Text("Load with", "bold"), Text(load))
    return table


def jobs_table(jobs: Iterable[JobView], width: int) -> Table:
    """An id is there to be copied, so it is never shortened; a narrow terminal gets fewer columns."""
    table = figures_table()
    table.add_column("id", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("model", overflow="ellipsis")
    names = ("ratio",) if width < WIDE else ("ratio", "drift", "age")
    for name in names:
        table.add_column(name, no_wrap=True, justify="right")
    for job in jobs:
        ratio = job.compressed.ratio if job.compressed else job.told.get("ratio", "")
        progress = f" {job.progress:.0%}" if job.status == "running" else ""
        right = (
            f"{ratio:.2f}" if isinstance(ratio, float) else str(ratio),
            percent(job.compressed.perplexity_drift) if job.compressed else "",
            age(job.created),
        )
        status = Text(job.status + progress, STATUS_STYLES.get(job.status, ""))
        table.add_row(job.id, status, job.kind, Text(printable(job.model.id)), *right[: len(names)])
    return table


def job_view(job: JobView) -> RenderableType:
    """Everything about one job but its report."""
    rows: list[tuple[str, str | Text]] = [
        ("Job", job.id),
        ("Status", Text(job.status, STATUS_STYLES.get(job.status, ""))),
        ("Model", job.model.id + (f" @ {job.model.revision}" if job.model.revision else "")),
        ("Corpus", job.corpus),
        ("Asked for", _asked_for(job)),
        ("Created", f"{job.created:%Y-%m-%d %H:%M:%S} UTC, {age(job.created)} ago"),
        ("Phases", ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in job.phase_seconds.items())),
        ("Labels", ", ".join(f"{key}={value}" for key, value in job.labels.items())),
    ]
    if job.status == "running":
        rows.insert(2, ("Progress", f"{job.phase}, {job.progress:.0%}"))
    if len(job.attempts) > 1:
        rows.append(("Attempts", ", ".join(f"{one.attempt}: {one.outcome or 'running'}" for one in job.attempts)))
    if job.error:
        rows.append(("Error", Text(f"[{job.error.code}] {printable(job.error.message)}", "red")))
    table = _pairs()
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, value if isinstance(value, Text) else Text(printable(value)))
    return table


def _asked_for(job: JobView) -> str:
    if job.kind != "compress":
        return job.kind
    searched = {name: value for name, value in (job.told.get("budget") or {}).items() if value is not None}
    what = ", ".join(f"{name} {value:g}" for name, value in searched.items()) or f"ratio {job.told['ratio']}"
    return f"{what}, method {job.told['method']}, allowed {allowed(job.told.get('drift') or {})}"


def records_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain list of short fields."""
    table = figures_table()
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    return table


def dry_run_view(dry_run: DryRunView) -> RenderableType:
    """What a job would find and cost."""
    model, head, estimate = dry_run.model, dry_run.head, dry_run.estimate
    table = _pairs()
    table.add_column(no_wrap=True, style="bold")
    table.add_row("Model", printable(f"{model.id} {size(model.bytes)} {model.dtype}"))
    kind = "tied" if head.tied else "untied"
    table.add_row("Head", f"{head.vocab_size:,} x {head.hidden_size:,}, {kind}, {size(head.bytes)}")
    if estimate.kept_columns is not None and estimate.head_bytes_after is not None:
        table.add_row("Head after", f"{estimate.kept_columns:,} columns, {size(estimate.head_bytes_after)}")
    table.add_row("Takes", f"about {duration(estimate.seconds)}")
    table.add_row("Needs", f"about {size(estimate.memory_bytes)} of memory")
    table.add_row("", f"or {size(estimate.least_memory_bytes)}, reading the model from disk layer by layer")
    return Group(Text("Valid; no job was made.", "green"), table)
