"""Jobs and reports as terminal text. It builds what to show; it asks no server and decides no exit code.

The tables are the same on a terminal, in a pipe and in a file; colour comes and goes with the console.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from headroom.records import DryRun, JobRecord

STATUS_STYLES = {
    "succeeded": "green",
    "rejected": "yellow",
    "failed": "red",
    "canceled": "dim",
    "running": "cyan",
    "canceling": "dim",
    "queued": "blue",
}
PIPE_WIDTH = 120  # of a console that is no terminal


def console_for(stream: Any) -> Console:
    """A console that neither guesses at highlights nor wraps what a script may read."""
    console = Console(file=stream, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def printable(text: str) -> str:
    """Text of others without what steers a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def percent(fraction: float, sign: bool = True) -> str:
    """Small values keep a digit that says something: +0.006 %, +1.15 %, +11.7 %, +358 %."""
    value = 100 * fraction
    decimals = 3 if abs(value) < 0.9995 else 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:{'+' if sign else ''}.{decimals}f} %"


def size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def age(moment: datetime | None) -> str:
    return f"{duration((datetime.now(UTC) - moment).total_seconds())} ago" if moment else ""


def drift_view(job: JobRecord, report: Mapping[str, Any]) -> RenderableType:
    """The drift table of a report, with what it was measured on and what was allowed."""
    budget = job.json.get("drift") or {}
    tokens = report["corpus"]["evaluation_tokens"]
    caption = Text.assemble(
        ("Drift", "bold"),
        f" on {tokens:,} evaluation tokens, method {report['method']}, "
        f"perplexity {report['baseline']['perplexity']:,.2f} before; allowed {_allowed(budget)}",
    )
    return Group(caption, _curve_table(job, report["curve"], report["selected"], budget))


def _allowed(budget: Mapping[str, Any]) -> str:
    limits = []
    if budget.get("perplexity") is not None:
        limits.append(percent(budget["perplexity"]))
    if budget.get("kl") is not None:
        limits.append(f"KL {budget['kl']:g}")
    return " and ".join(limits) or "anything"


def _curve_table(
    job: JobRecord, curve: Sequence[Mapping[str, Any]], selected: Mapping[str, Any], budget: Mapping[str, Any]
) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("ratio", "kept", "perplexity", "drift", "95 % interval", "KL, nats", "top-1 same"):
        table.add_column(name, justify="right", no_wrap=True)
    fallback = job.result.largest_passing_ratio if job.result and not job.result.passes else None
    for point in sorted(curve, key=lambda point: point["ratio"]):
        chosen = point["kept_columns"] == selected["kept_columns"]
        mark, style = _mark(chosen, _fits(point, budget), point["ratio"] == fallback)
        table.add_row(
            mark,
            f"{point['ratio']:.2f}",
            f"{point['kept_columns']:,}",
            f"{point['perplexity']:,.2f}",
            percent(point["perplexity_drift"]),
            f"{percent(point['perplexity_drift_low'])} .. {percent(point['perplexity_drift_high'])}",
            f"{point['kl_mean']:.5f}",
            percent(point["top1_agreement"], sign=False),
            style=style,
        )
    return table


def _fits(point: Mapping[str, Any], budget: Mapping[str, Any]) -> bool:
    """The gate's rule, for colours only: the upper end of the interval is inside."""
    perplexity, kl = budget.get("perplexity"), budget.get("kl")
    return (perplexity is None or point["perplexity_drift_high"] <= perplexity) and (
        kl is None or point["kl_mean"] <= kl
    )


def _mark(chosen: bool, fits: bool, is_fallback: bool) -> tuple[str, str]:
    if chosen:
        return ("->", "bold green") if fits else ("x", "bold red")
    if is_fallback:
        return "ok", "green"
    return ("", "") if fits else ("", "dim")


def bytes_view(job: JobRecord) -> RenderableType:
    """Bytes of the head and of the checkpoint, before and after."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    result = job.result
    if result is None:
        return table
    for name, before, after in (
        ("Head", result.head_bytes_before, result.head_bytes_after),
        ("Checkpoint", result.checkpoint_bytes_before, result.checkpoint_bytes_after),
    ):
        if before and after is not None:
            table.add_row(Text(name, "bold"), f"{size(before)} -> {size(after)}", percent(after / before - 1))
    return table


def verdict(job: JobRecord) -> Text:
    """One sentence on how a finished job ended."""
    result = job.result
    if job.status == "succeeded" and result:
        return Text.assemble(
            ("Succeeded: ", "bold green"),
            f"{percent(result.ratio, sign=False)} of the head's columns removed, {result.kept_columns:,} of "
            f"{result.hidden_size:,} kept; perplexity {percent(result.perplexity_drift)} "
            f"(95 %: at most {percent(result.perplexity_drift_high)}).",
        )
    if job.status == "rejected" and result:
        largest = result.largest_passing_ratio
        hint = f"the largest ratio that passes is {largest:g}" if largest else "no measured ratio passes"
        return Text.assemble(
            ("Rejected: ", "bold yellow"),
            f"at ratio {result.ratio:g} the drift may reach {percent(result.perplexity_drift_high)}, "
            f"over the budget; {hint}. Nothing was written.",
        )
    return Text.assemble((f"{job.status.capitalize()}", f"bold {STATUS_STYLES.get(job.status, '')}"), ".")


def places_view(folder: Path) -> RenderableType:
    """Where the results are, and how to use them."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text("Checkpoint", "bold"), Text(str(folder)))
    table.add_row(Text("Report", "bold"), Text(str(folder / "report.json")))
    load = f'import headroom; AutoModelForCausalLM.from_pretrained("{folder}")'
    table.add_row(Text("Load it", "bold"), Text(load))
    return table


def jobs_table(jobs: Iterable[JobRecord]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in ("id", "status", "model", "ratio", "drift", "created"):
        table.add_column(name, justify="right" if name in ("ratio", "drift") else "left", no_wrap=True)
    for job in jobs:
        ratio = job.result.ratio if job.result else job.ratio
        progress = f" {job.progress:.0%}" if job.status == "running" else ""
        table.add_row(
            job.id,
            Text(job.status + progress, STATUS_STYLES.get(job.status, "")),
            Text(printable(job.model.id)),
            f"{ratio:.2f}" if isinstance(ratio, float) else str(ratio),
            percent(job.result.perplexity_drift) if job.result else "",
            age(job.created),
        )
    return table


def job_view(job: JobRecord) -> RenderableType:
    """Everything about one job but its report."""
    rows: list[tuple[str, str | Text]] = [
        ("Job", job.id),
        ("Status", Text(job.status, STATUS_STYLES.get(job.status, ""))),
        ("Model", job.model.id + (f" @ {job.model.revision}" if job.model.revision else "")),
        ("Corpus", job.corpus),
        ("Asked for", f"ratio {job.ratio}, method {job.method}, allowed {_allowed(job.json.get('drift') or {})}"),
        ("Created", f"{job.created:%Y-%m-%d %H:%M:%S} UTC, {age(job.created)}" if job.created else ""),
        ("Phases", ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in job.phase_seconds.items())),
        ("Labels", ", ".join(f"{key}={value}" for key, value in job.labels.items())),
    ]
    if job.status == "running":
        rows.insert(2, ("Progress", f"{job.phase}, {job.progress:.0%}"))
    if len(job.attempts) > 1:
        rows.append(("Attempts", ", ".join(f"{one.attempt}: {one.outcome or 'running'}" for one in job.attempts)))
    if job.error:
        rows.append(("Error", Text(f"[{job.error.code}] {printable(job.error.message)}", "red")))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, value if isinstance(value, Text) else Text(printable(value)))
    return table


def records_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain list of short fields."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    return table


def dry_run_view(dry_run: DryRun) -> RenderableType:
    """What a job would find and cost."""
    model, head, estimate = dry_run.model, dry_run.head, dry_run.estimate
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    if model.get("id"):
        known = [size(model["bytes"])] if model.get("bytes") else []
        table.add_row("Model", printable(" ".join([model["id"], *known, model.get("dtype") or ""])))
    if head.get("vocab_size"):
        kind = "tied" if head.get("tied") else "untied"
        table.add_row("Head", f"{head['vocab_size']:,} x {head['hidden_size']:,}, {kind}, {size(head['bytes'])}")
    if estimate.get("head_bytes_after"):
        kept = f"{estimate['kept_columns']:,} columns, {size(estimate['head_bytes_after'])}"
        table.add_row("Head after", kept)
    if estimate.get("seconds"):
        table.add_row("Takes", f"about {duration(estimate['seconds'])}")
    if estimate.get("memory_bytes"):
        table.add_row("Needs", f"about {size(estimate['memory_bytes'])} of memory")
    return Group(Text("Valid; no job was made.", "green"), table)
