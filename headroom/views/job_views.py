"""Jobs as terminal text: one, a list, how one ended, and what one would cost. It asks no server."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headroom.contract.answers.dry_run import DryRunView
from headroom.contract.answers.job import JobView
from headroom.contract.answers.results import CompressResult
from headroom.views.compression_view import allowed
from headroom.views.figures import age, duration, number, percent, printable, size
from headroom.views.rendering import figures_table, pairs

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
    table = pairs()
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


def dry_run_view(dry_run: DryRunView) -> RenderableType:
    """What a job would find and cost."""
    model, head, estimate = dry_run.model, dry_run.head, dry_run.estimate
    table = pairs()
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
