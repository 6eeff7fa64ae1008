"""The report of a compare job as terminal text."""

from rich.console import Group, RenderableType
from rich.text import Text

from headroom.contract.report.report import CompareReport
from headroom.views.compression_view import allowed
from headroom.views.figures import drift_percent, number, printable, size
from headroom.views.rendering import figures_table


def comparison_view(report: CompareReport) -> RenderableType:
    """Both models side by side, on what they were measured."""
    sides = (report.model, report.other)
    perplexities = (report.baseline.perplexity, report.perplexity_after)
    table = figures_table()
    table.add_column("")
    for name in ("model", report.baseline.kind, "head", "checkpoint", "ms a token"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for letter, side, perplexity in zip("AB", sides, perplexities, strict=True):
        seconds = side.seconds_per_token
        table.add_row(
            letter,
            Text(printable(side.id)),
            number(perplexity, ",.4f"),
            size(side.head_bytes),
            size(side.checkpoint_bytes),
            number(None if seconds is None else 1000 * seconds, ",.2f"),
        )
    return Group(Text.assemble(("B against A", "bold"), f" on {report.corpus.evaluation_tokens:,} tokens"), table)


def comparison_verdict(report: CompareReport) -> Text:
    whole, budget = report.bands[0], report.budget
    moved = (
        f"{report.baseline.kind} {drift_percent(whole.perplexity_drift)} % (95 %: "
        f"{drift_percent(whole.perplexity_drift_low)} … {drift_percent(whole.perplexity_drift_high)})"
    )
    if budget is None:
        return Text.assemble(("Measured: ", "bold"), f"{moved}; no budget was asked for.")
    word, style = ("Inside the budget: ", "bold green") if report.passes else ("Over the budget: ", "bold yellow")
    return Text.assemble((word, style), f"{moved}, allowed {allowed(budget.model_dump())}.")
