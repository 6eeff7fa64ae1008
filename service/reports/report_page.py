"""A report as one self-contained HTML page: tables and words from the report, plots by plotly's own script."""

import json
from html import escape

from plotly.offline import get_plotlyjs

from headroom.contract.head_forms import NAMES, reading_of
from headroom.contract.report.report import AnalyzeReport, CompareReport, CompressReport, Report, SteerReport
from headroom.contract.report.rollout import Rollout
from headroom.contract.report.times import TimesOfReport
from service.reports.encoding_page import analysis_page, dynamics_page, encoding_sections
from service.reports.frontier_page import frontier_sections, in_planes
from service.reports.page_parts import bounds, how_measured, number, percent, plot, remarks, step_times, table
from service.reports.refusals import is_not_worth_it, refusals
from service.reports.report_figures import Figure, bytes_figure, drift_figure, perplexity_figure
from service.reports.steering_card import steering_sections

PAGE_NAME = "report.html"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5d6670; --paper: #ffffff; --line: #d8dde3; --good: #00735a;
  --bad: #b34700; --card: #f5f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --dim: #9aa4ae; --paper: #15191d; --line: #333b43;
  --good: #35c69d; --bad: #ff9a57; --card: #1d2328; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.dim, caption, td.dim { color: var(--dim); } code { font-size: .92em; overflow-wrap: anywhere; }
.verdict { border-left: .4rem solid var(--good); background: var(--card); padding: .7rem 1rem; margin: 1rem 0; }
.verdict.bad { border-color: var(--bad); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.chosen td { font-weight: 700; } .good { color: var(--good); } .bad { color: var(--bad); }
.plot { height: 26rem; } .plot.low { height: 16rem; }
@media print { .plot { break-inside: avoid; } }
"""

# Plots take the page's colours, and again when the reader switches between light and dark.
DRAW = """
const figures = JSON.parse(document.getElementById("figures").textContent);
function draw() {
  const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--ink").trim();
  const line = style.getPropertyValue("--line").trim();
  for (const [id, figure] of Object.entries(figures)) {
    const layout = structuredClone(figure.layout);
    Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink },
      margin: { t: 20, r: 60, b: 50, l: 75 } });
    layout.legend = Object.assign({ orientation: "h", y: 1.12 }, layout.legend);
    for (const axis of ["xaxis", "yaxis", "yaxis2"])
      if (layout[axis]) Object.assign(layout[axis], { gridcolor: line, zerolinecolor: line, automargin: true });
    Plotly.react(id, structuredClone(figure.data), layout, { responsive: true, displayModeBar: false });
  }
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
"""


def write_page(report: Report) -> str:
    """The page of a report of any kind. About 5 MB, nearly all of it plotly's script: it opens without a network."""
    sections, figures = _page(report)
    name = escape(report.model.id)
    title = f"{name}: {report.kind} report"
    data = json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{name}</h1>",
            f'<p class="dim">{report.kind} report of job <code>{escape(report.job_id)}</code></p>',
            *sections,
            "</main>",
            f'<script type="application/json" id="figures">{data}</script>',
            f"<script>{get_plotlyjs()}</script><script>{DRAW}</script></body></html>",
        ]
    )


def figures_of(report: Report) -> dict[str, Figure]:
    """The plots of the page alone, by name, for those who draw them elsewhere."""
    return _page(report)[1]


def _page(report: Report) -> tuple[list[str], dict[str, Figure]]:
    if isinstance(report, CompressReport):
        return _compression(report)
    if isinstance(report, AnalyzeReport):
        return analysis_page(report)
    if isinstance(report, SteerReport):
        return _steering(report)
    if isinstance(report, CompareReport):
        return _comparison(report)
    return dynamics_page(report)


def _compression(report: CompressReport) -> tuple[list[str], dict[str, Figure]]:
    encoding, plots = encoding_sections(report)
    figures = {"drift": drift_figure(report), "perplexity": perplexity_figure(report)} | plots
    sections = [
        _verdict(report),
        remarks(report),
        "<h2>Drift</h2>",
        plot("drift", "KL divergence against the share of columns removed, on a logarithmic scale."),
        plot("perplexity", "Growth of perplexity against the share of columns removed, around zero."),
        _curve_table(report),
        _bands(report),
    ]
    frontier, plots = frontier_sections(report)
    sections, figures = [*sections, _planes(report), *frontier], figures | plots
    sizes = bytes_figure(report)
    if sizes is not None:
        figures["bytes"] = sizes
        sections += ["<h2>Bytes</h2>", plot("bytes", "Bytes before and after.", low=True)]
    sections += _times(report.time)
    told = [] if is_not_worth_it(report) else [*([report.worth.sentence] if report.worth else []), report.advice]
    sections += [*(f"<p>{escape(sentence)}</p>" for sentence in told), *_rollout(report.rollout), *encoding]
    return [*sections, *how_measured(report)], figures


def _steering(report: SteerReport) -> tuple[list[str], dict[str, Figure]]:
    steering, plots = steering_sections(report)
    encoding, figures = encoding_sections(report)
    return [*steering, remarks(report), *encoding, *how_measured(report)], plots | figures


def _comparison(report: CompareReport) -> tuple[list[str], dict[str, Figure]]:
    perplexity, whole = report.baseline.kind, report.bands[0]
    sides = (
        ("A", report.model, report.baseline.perplexity),
        ("B", report.other, report.perplexity_after),
    )
    rows = [
        (
            False,
            (
                letter,
                escape(side.id),
                number(value, ",.4f"),
                f"{side.head_bytes:,}",
                f"{side.checkpoint_bytes:,}",
                number(side.seconds_per_token, ".4g"),
            ),
        )
        for letter, side, value in sides
    ]
    budget, passes = report.budget, report.passes
    words = {True: "Inside the budget", False: "Over the budget", None: "Measured, no budget"}[passes]
    allowed = "" if budget is None else f"; {bounds(budget)}"
    drift = (
        f"{perplexity} of B {percent(whole.perplexity_drift)} against A (95 % interval "
        f"{percent(whole.perplexity_drift_low)} to {percent(whole.perplexity_drift_high)}){allowed}"
    )
    head = ("", "model", perplexity, "head, bytes", "checkpoint, bytes", "seconds a token")
    corpus = report.corpus
    sections = [
        f'<div class="verdict{" bad" if passes is False else ""}"><strong>{words}.</strong> {escape(drift)}.</div>',
        remarks(report),
        "<h2>A and B</h2>",
        table(head, rows),
        _bands(report),
        f"<p>{corpus.evaluation_tokens:,} tokens in windows of {corpus.window}, seed {report.seed}.</p>",
    ]
    return sections, {}


def _verdict(report: CompressReport) -> str:
    selected, hidden = report.selected, report.head.hidden_size
    passes = selected.passes
    removed = f"{1 - selected.kept_columns / hidden:.1%} of the head's columns removed"
    if report.head_dtype == "planes" and report.planes is not None:
        removed = f"The head {in_planes(report.planes)}"
    elif report.head_dtype != "source":
        removed += f", the others as {NAMES[report.head_dtype].removesuffix(' bits')}-bit integers"
    drift = (
        f"{report.baseline.kind} {percent(selected.perplexity_drift)} (95 % interval "
        f"{percent(selected.perplexity_drift_low)} to {percent(selected.perplexity_drift_high)}), "
        f"KL {number(selected.kl_mean, '.3g')} nats a token, the same most probable token at "
        f"{selected.top1_agreement:.2%} of positions; {bounds(report.budget)}"
    )
    best = report.largest_passing_ratio
    hint = f" The largest ratio that passes is {best:.4g}." if best is not None and not passes else ""
    spared = is_not_worth_it(report)
    words = "Not worth storing" if spared else "Inside the budget" if passes else "Refused"
    kind = " bad" if spared or not passes else ""
    reasons = "".join(f"<li>{escape(sentence)}</li>" for sentence in refusals(report))
    listed = f"<ul>{reasons}</ul>" if reasons else ""
    return f'<div class="verdict{kind}"><strong>{words}.</strong> {removed}: {escape(drift)}.{hint}{listed}</div>'


def _planes(report: CompressReport) -> str:
    """The head in bit planes as it may be read: nothing where the job considered none."""
    planes = report.planes
    if planes is None:
        return ""
    head = ("read as", "read", "stored", "drift", "at most (95 %)", "KL, nats", "same top token")
    rows = [
        (
            (one.bits, one.rescored) == (planes.bits, planes.rescored),
            [
                escape(reading_of(one.bits, one.rescored)),
                f"{one.share:.3f}",
                f"{one.stored_share:.3f}",
                percent(one.perplexity_drift),
                percent(one.perplexity_drift_high),
                number(one.kl_mean, ".3g"),
                f"{one.top1_agreement:.2%}",
            ],
        )
        for one in planes.curve
    ]
    told = (
        f"{planes.whole_columns:,} columns are read whole; tokens weigh alpha^{planes.tau:g}, chosen on "
        f"{planes.held_out:,} calibration positions."
    )
    return f"<h2>In bit planes</h2><p>{told} All readings are of the same stored tensors.</p>" + table(head, rows)


def _curve_table(report: CompressReport) -> str:
    chosen = report.selected.kept_columns
    head = ("ratio", "kept columns", "perplexity", "drift", "at most (95 %)", "KL, nats", "same top token")
    rows = [
        (
            point.kept_columns == chosen,
            [
                f"{point.ratio:.3f}",
                f"{point.kept_columns:,}",
                number(point.perplexity, ",.2f"),
                percent(point.perplexity_drift),
                percent(point.perplexity_drift_high),
                number(point.kl_mean, ".3g"),
                f"{point.top1_agreement:.2%}",
            ],
        )
        for point in report.curve
    ]
    return table(head, rows)


def _bands(report: CompressReport | CompareReport) -> str:
    """Figures by frequency of the token: columns that go hurt rare tokens first."""
    head = ("tokens", "positions", "drift", "KL, nats", "same top token")
    rows = [
        (
            False,
            [
                escape(band.band),
                f"{band.positions:,}",
                percent(band.perplexity_drift),
                number(band.kl_mean, ".3g"),
                number(band.top1_agreement, ".2%"),
            ],
        )
        for band in report.bands
    ]
    return "<h2>By frequency of the token</h2>" + table(head, rows) if rows else ""


def _times(found: TimesOfReport | None) -> list[str]:
    """Of a step of decoding; nothing for a report that has none."""
    if found is None:
        return []
    rows = [(False, [name, *cells]) for name, *cells in step_times(found)]
    where = f"{found.device}, {found.threads} threads" if found.threads else found.device
    note = f'<p class="dim">Medians of plain eager calls in turns, on {escape(where)}.</p>'
    return ["<h2>Time</h2>", table(("a step of decoding", "before, ms", "after, ms", "after over before"), rows), note]


def _rollout(plan: Rollout | None) -> list[str]:
    if plan is None:
        return []
    head = ("stage", "traffic", "kept columns", "drift to expect", "stop if KL is above", "or the same top token below")
    stages = [
        (
            False,
            [
                str(index),
                f"{stage.traffic:.0%}",
                f"{stage.kept_columns:,}",
                percent(stage.perplexity_drift),
                f"{stage.stop_above_kl:.2g}",
                f"{stage.stop_below_agreement:.2%}",
            ],
        )
        for index, stage in enumerate(plan.stages, start=1)
    ]
    marks = {True: '<span class="good">yes</span>', False: '<span class="bad">no</span>', None: "☐"}
    checks = [
        f'<tr><td>{marks[item.ok]}</td><td class="text">{escape(item.text)}</td>'
        f'<td class="text dim">{escape(item.evidence)}</td></tr>'
        for item in plan.checklist
    ]
    back = "".join(f"<li>{escape(step)}</li>" for step in plan.back)
    return [
        "<h2>Roll-out in stages</h2>",
        f"<p>Go on to the next stage after {plan.sampled_positions:,} sampled positions without an alarm. "
        f"{escape(plan.sampling)}</p>",
        table(head, stages),
        f"<p>The way back, at any stage:</p><ul>{back}</ul>",
        "<h2>Before signing off</h2>",
        f'<div class="wide"><table>{"".join(checks)}</table></div>',
    ]
