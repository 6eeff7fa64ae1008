"""What a steer job obtained, as terminal text."""

from rich.console import Group, RenderableType
from rich.text import Text

from headroom.contract.report.report import SteerReport
from headroom.views.figures import number, printable
from headroom.views.rendering import figures_table


def steering_view(report: SteerReport) -> RenderableType:
    """Wanted against obtained, and what happened to the rest."""
    steering, baseline = report.steering, report.baseline
    caption = Text.assemble(("Steering", "bold"), f" measured on {report.corpus.evaluation_tokens:,} evaluation tokens")
    table = figures_table()
    for name in ("token", "text", "wanted", "obtained", "error, nats"):
        table.add_column(name, justify="left" if name == "text" else "right")
    for token in steering.tokens:
        table.add_row(
            str(token.id),
            Text(printable(repr(token.text) if token.text else "")),
            f"{token.multiplier:g}",
            number(token.obtained, ".4g"),
            number(token.log_error, "+.3f"),
        )
    budget = f", allowed {steering.max_kl:g}" if steering.max_kl is not None else ""
    verdict = "Rejected" if report.stored is None else "Stored"
    rest = (
        f"{verdict}: KL {number(steering.kl_mean, '.3g')} nats a token{budget}; {baseline.kind} "
        f"{number(baseline.perplexity, '.4f')} → {number(steering.perplexity_after, '.4f')}; probability of all "
        f"other tokens {number(steering.others_before, '.4f')} → {number(steering.others_after, '.4f')}."
    )
    return Group(caption, table, Text(rest))
