"""What a budget compared, as a table: bytes of the head beside drift, for the heads that no other beats in both."""

from rich.console import Group, RenderableType
from rich.text import Text

from headroom.contract.head_forms import form_of
from headroom.contract.report.report import CompressReport
from headroom.contract.report.worth import PlainHead
from headroom.views.figures import drift_percent, number, size
from headroom.views.rendering import figures_table


def frontier_view(report: CompressReport) -> RenderableType:
    """Nothing where the job searched nothing."""
    frontier = report.frontier
    if frontier is None:
        return Group()
    hidden = report.head.hidden_size
    nearest = frontier.nearest
    table = figures_table()
    table.add_column("")
    for name in ("bytes read", "share", "stored", "columns as", "kept", "drift, %", "95 % interval", "KL, nats"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for one in frontier.points:
        plain = one.is_plain(hidden)
        is_nearest = nearest is not None and one.is_same_head(nearest)
        if not (one.efficient or one.chosen or plain or is_nearest):
            continue
        mark, style = ("▶", "bold green") if one.chosen else ("✗", "bold red") if is_nearest else ("", "")
        table.add_row(
            mark,
            size(one.head_bytes),
            f"{one.share:.3f}",
            number(one.stored_share, ".3f"),
            form_of(one.head_dtype, one.bits, one.rescored),
            f"{one.kept_columns:,}",
            drift_percent(one.perplexity_drift),
            f"{drift_percent(one.perplexity_drift_low)} … {drift_percent(one.perplexity_drift_high)}",
            number(one.kl_mean, ".5f"),
            "nearest" if is_nearest else "all columns" if plain else "",
            style=style,
        )
    for name, plain_head in report.plain.items():
        table.add_row(*_plain_row(name, plain_head), style="dim")
    caption = Text.assemble(
        ("Bytes against drift", "bold"),
        f", asked for {frontier.budget.words}: {frontier.swept} sizes of the curve, "
        f"{frontier.measured} rounded heads measured, {frontier.left_out} left out that could not be best",
    )
    return Group(Text(), caption, table)


def _plain_row(head_dtype: str, one: PlainHead) -> list[str]:
    """Cells of plain rows rounded to the nearest, which every job measures beside its own head."""
    return [
        "",
        size(one.head_bytes),
        f"{one.share:.3f}",
        "",
        form_of(head_dtype),
        f"{one.kept_columns:,}",
        drift_percent(one.perplexity_drift),
        f"{drift_percent(one.perplexity_drift_low)} … {drift_percent(one.perplexity_drift_high)}",
        number(one.kl_mean, ".5f"),
        "plain rows",
    ]
