"""What a budget compared, as a table: bytes of the head beside drift, for the heads that no other beats in both."""

from rich.console import Group, RenderableType
from rich.text import Text

from headroom.contract.report.frontier import AskedBudget, FrontierPoint
from headroom.contract.report.report import CompressReport
from headroom.views.figures import number, size
from headroom.views.rendering import drift_percent, figures_table

NAMES = {"source": "own dtype", "int8": "8 bits", "int4": "4 bits"}


def frontier_view(report: CompressReport) -> RenderableType:
    """Nothing where the job had no budget."""
    frontier = report.frontier
    if frontier is None:
        return Group()
    hidden = report.head.hidden_size
    nearest = frontier.nearest
    table = figures_table()
    table.add_column("")
    for name in ("bytes", "share", "columns as", "kept", "drift, %", "95 % interval", "KL, nats"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for one in frontier.points:
        plain = one.head_dtype != "source" and one.kept_columns == hidden
        is_nearest = nearest is not None and _same(one, nearest)
        if not (one.efficient or one.chosen or plain or is_nearest):
            continue
        mark, style = ("▶", "bold green") if one.chosen else ("✗", "bold red") if is_nearest else ("", "")
        table.add_row(
            mark,
            size(one.head_bytes),
            f"{one.share:.3f}",
            NAMES[one.head_dtype],
            f"{one.kept_columns:,}",
            drift_percent(one.perplexity_drift),
            f"{drift_percent(one.perplexity_drift_low)} … {drift_percent(one.perplexity_drift_high)}",
            number(one.kl_mean, ".5f"),
            "nearest" if is_nearest else "plain" if plain else "",
            style=style,
        )
    caption = Text.assemble(
        ("Bytes against drift", "bold"),
        f", asked for {asked_for(frontier.budget)}: {frontier.swept} sizes of the curve, "
        f"{frontier.measured} rounded heads measured, {frontier.left_out} left out that could not be best",
    )
    return Group(Text(), caption, table)


def asked_for(budget: AskedBudget) -> str:
    if budget.head_bytes is not None:
        return f"the least drift at {budget.head_bytes:g} of the head's bytes"
    return f"the fewest bytes at a drift of {drift_percent(budget.drift)} %"


def _same(one: FrontierPoint, other: FrontierPoint) -> bool:
    return (one.head_dtype, one.kept_columns) == (other.head_dtype, other.kept_columns)
