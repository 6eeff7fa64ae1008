"""How token probability is encoded in a head, as terminal text. It asks no server."""

from rich.console import Group, RenderableType
from rich.text import Text

from headroom.contract.report.encoding import ColumnFigures, Sparsity
from headroom.contract.report.report import AnalyzeReport
from headroom.views.figures import number
from headroom.views.rendering import pairs


def encoding_view(report: AnalyzeReport) -> RenderableType:
    """How well the rows of the head tell a token's averaged probability."""
    encoding, corpus = report.encoding, report.corpus
    caption = Text.assemble(
        ("Encoding", "bold"), f" of token probability in the output head, on {corpus.calibration_tokens:,} tokens"
    )
    table = pairs()
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
