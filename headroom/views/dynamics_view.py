"""The report of a dynamics job as terminal text."""

from rich.console import Group, RenderableType
from rich.text import Text

from headroom.contract.report.report import DynamicsReport
from headroom.views.figures import number, printable
from headroom.views.rendering import figures_table


def dynamics_view(report: DynamicsReport) -> RenderableType:
    """How well the head of each checkpoint tells token frequency, beside its loss; the first to do so is marked."""
    tokens, first = report.frequency_tokens, report.readable
    caption = Text.assemble(
        ("Token frequency in the output head", "bold"),
        f" over training, from {tokens.positions:,} tokens, {tokens.distinct:,} different ones",
    )
    table = figures_table()
    for name in ("", "checkpoint"):
        table.add_column(name, no_wrap=True)
    for name in ("loss", "Spearman", "R²", "held out", "R² of probability"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, row in enumerate(report.checkpoints):
        chosen = index == first.checkpoint
        figures = (row.loss, row.frequency.spearman, row.frequency.r2, row.frequency.r2_held_out)
        table.add_row(
            "▶" if chosen else "",
            Text(printable(row.model.revision or row.model.id)),
            *(number(value, ".3f") for value in (*figures, row.probability.r2)),
            style="bold green" if chosen else "",
        )
    fallen = number(first.loss_fallen, ".0%")
    remark = f"▶ the first at {first.share:.0%} of the last Spearman; {fallen} of the fall of the loss was done then."
    return Group(caption, table, Text(remark))
