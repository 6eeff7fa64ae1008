"""A report as one self-contained HTML page: tables and words from the report, plots by plotly's own script."""

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from plotly.offline import get_plotlyjs

from service.encoding_figures import (
    checkpoint_name,
    components_figure,
    dynamics_figure,
    fitted_figure,
    slopes_figure,
)
from service.report_figures import Figure, bytes_figure, drift_figure
from service.steering_card import steering_sections

PAGE_NAME = "report.html"

ENCODING_FIGURES = {
    "R²": "r2",
    "R², adjusted": "r2_adjusted",
    "R², held-out rows": "r2_held_out",
    "Spearman, fitted against true": "spearman",
    "cosine of the slope with -mean(h)": "slope_cosine_mean_hidden",
}

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


def write_page(report: dict[str, Any]) -> str:
    """The page of a report of any kind. About 5 MB, nearly all of it plotly's script: it opens without a network."""
    sections, figures = PAGES[report["kind"]](report)
    name = escape(report["model"]["id"])
    title = f"{name}: {escape(report['kind'])} report"
    data = json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{name}</h1>",
            f'<p class="dim">{escape(report["kind"])} report of job <code>{escape(report["job_id"])}</code></p>',
            *sections,
            "</main>",
            f'<script type="application/json" id="figures">{data}</script>',
            f"<script>{get_plotlyjs()}</script><script>{DRAW}</script></body></html>",
        ]
    )


def _compression(report: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    encoding, plots = _encoding(report)
    figures = {"drift": drift_figure(report)} | plots
    sections = [
        _verdict(report),
        _remarks(report),
        "<h2>Drift</h2>",
        _plot("drift", "Growth of perplexity against the share of columns removed, on a logarithmic scale."),
        _curve_table(report),
        _bands(report),
    ]
    sizes = bytes_figure(report)
    if sizes is not None:
        figures["bytes"] = sizes
        sections += ["<h2>Bytes</h2>", _plot("bytes", "Bytes before and after.", low=True)]
    sections += [f"<p>{escape(report['advice'])}</p>", *_rollout(report.get("rollout")), *encoding]
    return [*sections, *_how_measured(report)], figures


def _analysis(report: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    encoding, figures = _encoding(report)
    return [_remarks(report), *encoding, *_how_measured(report)], figures


def _steering(report: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    steering, plots = steering_sections(report)
    encoding, figures = _encoding(report)
    return [*steering, _remarks(report), *encoding, *_how_measured(report)], plots | figures


def _comparison(report: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    perplexity, whole = report["baseline"]["kind"], report["bands"][0]
    sides = (
        ("A", report["model"], report["baseline"]["perplexity"]),
        ("B", report["other"], report["perplexity_after"]),
    )
    rows = [
        (
            False,
            (
                letter,
                escape(side["id"]),
                _number(value, ",.4f"),
                f"{side['head_bytes']:,}",
                f"{side['checkpoint_bytes']:,}",
                _number(side["seconds_per_token"], ".4g"),
            ),
        )
        for letter, side, value in sides
    ]
    budget, passes = report["budget"], report["passes"]
    words = {True: "Inside the budget", False: "Over the budget", None: "Measured, no budget"}[passes]
    allowed = "" if budget is None else f", budget {_percent(budget['perplexity'])}"
    drift = (
        f"{perplexity} of B {_percent(whole['perplexity_drift'])} against A (95 % interval "
        f"{_percent(whole['perplexity_drift_low'])} to {_percent(whole['perplexity_drift_high'])}){allowed}"
    )
    head = ("", "model", perplexity, "head, bytes", "checkpoint, bytes", "seconds a token")
    corpus = report["corpus"]
    sections = [
        f'<div class="verdict{" bad" if passes is False else ""}"><strong>{words}.</strong> {escape(drift)}.</div>',
        _remarks(report),
        "<h2>A and B</h2>",
        _table(head, rows),
        _bands(report),
        f"<p>{corpus['evaluation_tokens']:,} tokens in windows of {corpus['window']}, seed {report['seed']}.</p>",
    ]
    return sections, {}


def _dynamics(report: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    rows, first, tokens = report["checkpoints"], report["readable"], report["frequency_tokens"]
    named = checkpoint_name(rows[first["checkpoint"]]["model"])
    share = first["loss_fallen"]
    fallen = "" if share is None else f", when {share:.0%} of the fall of the loss was done"
    head = ("checkpoint", "loss", "frequency: Spearman", "R²", "R², held-out rows", "probability: Spearman", "R²")
    cells = [
        (
            number == first["checkpoint"],
            [
                escape(checkpoint_name(row["model"])),
                _number(row["loss"], ".3f"),
                *(_number(row["frequency"][key], ".3f") for key in ("spearman", "r2", "r2_held_out")),
                *(_number(row["probability"][key], ".3f") for key in ("spearman", "r2")),
            ],
        )
        for number, row in enumerate(rows)
    ]
    sections = [
        _remarks(report),
        "<h2>Token frequency in the head, over training</h2>",
        f"<p>Regression of -log frequency in the corpus ({tokens['positions']:,} tokens, {tokens['distinct']:,} "
        "different ones) on the rows of each checkpoint's output head. "
        f"{escape(named)} is the first to reach {first['share']:.0%} of the last Spearman{fallen}.</p>",
        _plot("dynamics", "Spearman and R² of frequency on the head, and the loss, at every checkpoint."),
        _table(head, cells),
        *_how_measured(report),
    ]
    return sections, {"dynamics": dynamics_figure(rows)}


PAGES: dict[str, Callable[[dict[str, Any]], tuple[list[str], dict[str, Figure]]]] = {
    "compress": _compression,
    "analyze": _analysis,
    "steer": _steering,
    "compare": _comparison,
    "dynamics": _dynamics,
}


def _verdict(report: dict[str, Any]) -> str:
    selected, hidden = report["selected"], report["head"]["hidden_size"]
    passes = bool(selected.get("passes"))
    removed = f"{1 - selected['kept_columns'] / hidden:.1%} of the head's columns"
    drift = (
        f"{report['baseline'].get('kind', 'perplexity')} {_percent(selected['perplexity_drift'])} (95 % interval "
        f"{_percent(selected['perplexity_drift_low'])} to {_percent(selected['perplexity_drift_high'])}), "
        f"budget {_percent(report['budget']['perplexity'])}"
    )
    best = report.get("largest_passing_ratio")
    hint = f" The largest ratio that passes is {best:.4g}." if best is not None and not passes else ""
    words = "Inside the budget" if passes else "Refused"
    kind = "" if passes else " bad"
    return f'<div class="verdict{kind}"><strong>{words}.</strong> {removed} removed: {escape(drift)}.{hint}</div>'


def _remarks(report: dict[str, Any]) -> str:
    found = report.get("warnings") or []
    return "" if not found else "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in found) + "</ul>"


def _plot(name: str, caption: str, low: bool = False) -> str:
    size = " low" if low else ""
    return f'<div class="plot{size}" id="{name}" role="img" aria-label="{escape(caption)}"></div>'


def _curve_table(report: dict[str, Any]) -> str:
    chosen = report["selected"]["kept_columns"]
    head = ("ratio", "kept columns", "perplexity", "drift", "at most (95 %)", "KL, nats", "same top token")
    rows = [
        (
            point["kept_columns"] == chosen,
            [
                f"{point['ratio']:.3f}",
                f"{point['kept_columns']:,}",
                _number(point["perplexity"], ",.2f"),
                _percent(point["perplexity_drift"]),
                _percent(point["perplexity_drift_high"]),
                _number(point["kl_mean"], ".3g"),
                f"{point['top1_agreement']:.2%}",
            ],
        )
        for point in report["curve"]
    ]
    return _table(head, rows)


def _bands(report: dict[str, Any]) -> str:
    """Figures by frequency of the token: columns that go hurt rare tokens first."""
    head = ("tokens", "positions", "drift", "KL, nats", "same top token")
    rows = [
        (
            False,
            [
                escape(band["band"]),
                f"{band['positions']:,}",
                _percent(band["perplexity_drift"]),
                _number(band["kl_mean"], ".3g"),
                _number(band["top1_agreement"], ".2%"),
            ],
        )
        for band in report.get("bands", [])
    ]
    return "<h2>By frequency of the token</h2>" + _table(head, rows) if rows else ""


def _rollout(plan: dict[str, Any] | None) -> list[str]:
    if not plan:
        return []
    head = ("stage", "traffic", "kept columns", "drift to expect", "stop if KL is above", "or the same top token below")
    stages = [
        (
            False,
            [
                str(number),
                f"{stage['traffic']:.0%}",
                f"{stage['kept_columns']:,}",
                _percent(stage["perplexity_drift"]),
                f"{stage['stop_above_kl']:.2g}",
                f"{stage['stop_below_agreement']:.2%}",
            ],
        )
        for number, stage in enumerate(plan["stages"], start=1)
    ]
    marks = {True: '<span class="good">yes</span>', False: '<span class="bad">no</span>', None: "☐"}
    checks = [
        f'<tr><td>{marks[item["ok"]]}</td><td class="text">{escape(item["text"])}</td>'
        f'<td class="text dim">{escape(item["evidence"])}</td></tr>'
        for item in plan["checklist"]
    ]
    back = "".join(f"<li>{escape(step)}</li>" for step in plan["back"])
    return [
        "<h2>Roll-out in stages</h2>",
        f"<p>Go on to the next stage after {plan['sampled_positions']:,} sampled positions without an alarm. "
        f"{escape(plan['sampling'])}</p>",
        _table(head, stages),
        f"<p>The way back, at any stage:</p><ul>{back}</ul>",
        "<h2>Before signing off</h2>",
        f'<div class="wide"><table>{"".join(checks)}</table></div>',
    ]


def _encoding(report: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    """With the parts that only the report of an analysis has, where they are there."""
    encoding, components, fits = report["encoding"], report.get("components"), report.get("few_examples")
    rows = [(False, [escape(name), _number(encoding.get(key), ".4f")]) for name, key in ENCODING_FIGURES.items()]
    figures = {"slopes": slopes_figure(encoding)}
    sections = [
        "<h2>How token probability is encoded</h2>",
        "<p>Regression of -log averaged token probability on the rows of the output head.</p>",
        _table(("figure", "value"), rows),
        _plot("slopes", "Sorted magnitudes of the slopes, and the R² that the largest reach together."),
        f"<p>{_needed(encoding, 'columns')}</p>",
    ]
    if components:
        figures |= {"components": components_figure(components), "fitted": fitted_figure(report["fitted"])}
        sections += [
            "<h2>Principal components of the head</h2>",
            _plot("components", "The same of principal components, with the share of the variance that each explains."),
            f"<p>{_needed(components, 'components')}</p>",
            "<h2>Fitted against true</h2>",
            _plot("fitted", "Fitted against true -log averaged probability of a sample of tokens."),
        ]
    if fits:
        head = ("tokens of text", "R²", "Spearman", "cosine with the slope of all")
        cells = [
            (False, [f"{fit['tokens']:,}", *(_number(fit[key], ".4f") for key in ("r2", "spearman", "slope_cosine"))])
            for fit in fits
        ]
        sections += ["<h2>From a few tokens of text</h2>", _table(head, cells)]
    return sections, figures


def _needed(found: dict[str, Any], what: str) -> str:
    reached = ", ".join(f"{count:,} reach {float(share):.0%}" for share, count in found["columns_needed"].items())
    return f"Of the {what}, largest slope first: {reached} of the R² of all. Gini coefficient {found['gini']:.3f}."


def _how_measured(report: dict[str, Any]) -> list[str]:
    corpus, head = report["corpus"], report["head"]
    facts = [
        (
            "model",
            report["model"]["id"] + (f" at {report['model']['revision']}" if report["model"]["revision"] else ""),
        ),
        ("model digest", report["model"]["digest"]),
        (
            "head",
            f"{head['vocab_size']:,} tokens x {head['hidden_size']:,} columns, {'tied' if head['tied'] else 'untied'}",
        ),
        ("corpus digest", corpus["digest"]),
        (
            "tokens",
            f"{corpus['calibration_tokens']:,} to calibrate, {corpus['evaluation_tokens']:,} to evaluate, "
            f"windows of {corpus['window']}",
        ),
        ("seed", str(report["seed"])),
        ("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
    ]
    rows = [
        f'<tr><td>{escape(name)}</td><td class="text"><code>{escape(value)}</code></td></tr>' for name, value in facts
    ]
    return ["<h2>How it was measured</h2>", f'<div class="wide"><table>{"".join(rows)}</table></div>']


def _table(head: Sequence[str], rows: Iterable[tuple[bool, Sequence[str]]]) -> str:
    """Cells are HTML already."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(
        f"<tr{' class=chosen' if chosen else ''}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for chosen, cells in rows
    )
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)


def _percent(fraction: float | None) -> str:
    return "not measured" if fraction is None else f"{fraction:+.3%}"
