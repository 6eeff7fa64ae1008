"""README.md of an artifact: what was removed, what it cost, how to load it, where it ends. Measures nothing."""

import json
from typing import Any

from headroom.contract.compress import CompressRecipe
from headroom.contract.report.report import CompressReport, SteerReport
from service.ports.jobs import LocalModel
from service.records.job import Job
from service.reports.frontier_page import frontier_card, in_planes
from service.reports.page_parts import step_times
from service.reports.refusals import refusals
from service.reports.steering_card import write_steering_card

CARD_NAME = "README.md"

METHODS = {
    "slope": "columns ordered by the slope of the token probability on them",
    "spearman": "columns ordered by their rank correlation with the token probability",
    "random": "columns in a seeded random order (a baseline, not a method to use)",
    "magnitude": "columns ordered by activation-weighted norm",
    "fisher": "columns ordered by the second-order cost of deleting them",
    "pca": "principal components of the head, largest first",
    "activation": "the basis that keeps the logits closest in squared error",
    "probability": "the basis that keeps the logits closest, weighted by averaged token probability",
}

LOADING = """## Load it

```
pip install 'headroom-lm[load]'
```

```python
import headroom  # registers the format with transformers
from transformers import AUTO_CLASS, AutoTokenizer

model = AUTO_CLASS.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

`model.dequantize()` gives back a plain dense model. Without `import headroom` loading fails loudly:
the head has a shape that the plain architecture does not expect.
"""

# What the hub calls the tasks of models that these classes load.
PIPELINE_TAGS = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSeq2SeqLM": "text2text-generation",
}

LIMITS = """## Limits

- The drift was measured on one corpus. On text unlike it the drift can be larger; measure on your own.
- Deleting columns tends to cost rare tokens more than frequent ones; the figures here are means over all tokens,
  `report.json` has them by token frequency.
- Only the output head was changed (and, in a tied model, the table it shares with the input embedding).
  What the original model gets wrong, this one gets wrong too, and its licence and terms of use still hold.
"""


def write_card(job: Job, model: LocalModel, report: CompressReport | SteerReport, folder: str = "") -> str:
    """The model card as Markdown with Hugging Face's front matter. folder: of a further point of the curve."""
    auto_class = report.model.auto_class
    if isinstance(report, SteerReport):
        return f"{_front_matter(model, auto_class, ['steered'])}\n{write_steering_card(job, model, report)}"
    name = model.id.split("/", 1)[-1]
    return "\n".join(
        [
            _front_matter(model, auto_class, ["compressed", "pruned-head"]),
            f"# {name}, with a smaller output head",
            "",
            *([_further_point(folder, report)] if folder else []),
            _what_was_removed(job, model, report),
            _drift_table(report),
            frontier_card(report),
            _times(report),
            LOADING.replace("AUTO_CLASS", auto_class),
            _exports(report),
            _revisions(report),
            LIMITS,
            f"The plots, a roll-out in stages and what to check before signing off are in `report.html`"
            f"{' of `main`' if folder else ''}.\n",
            f"Made by Headroom, job `{job.id}`. `headroom.json` holds the recipe and the hash of every file, "
            "`report.json` everything that was measured.\n",
        ]
    )


def _front_matter(model: LocalModel, auto_class: str, tags: list[str]) -> str:
    fields: dict[str, Any] = {
        "base_model": model.id,
        "library_name": "transformers",
        "pipeline_tag": PIPELINE_TAGS[auto_class],
        "tags": ["headroom", *tags],
    }
    # JSON is YAML, so no value can break out of its line.
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---", ""])


def _what_was_removed(job: Job, model: LocalModel, report: CompressReport) -> str:
    source = f"`{model.id}`" + (f" at revision `{model.revision}`" if model.revision else "")
    head, selected = report.head, report.selected
    removed = f"{head.hidden_size - selected.kept_columns} of {head.hidden_size}"
    tied = "shares its table with the input embedding" if head.tied else "has a table of its own"
    assert isinstance(job.recipe, CompressRecipe)
    method = job.recipe.method.value
    if report.head_dtype == "planes" and report.planes is not None:
        return (
            f"Made from {source}. The output head ({head.vocab_size} tokens, {head.hidden_size} columns, {tied}) "
            f"{in_planes(report.planes)} All columns stay; everything else is as it was.\n"
        )
    return (
        f"Made from {source}. The output head ({head.vocab_size} tokens, {head.hidden_size} columns, "
        f"{tied}) lost {removed} columns (ratio {selected.ratio:.4g}); everything else is as it was.\n\n"
        f"Method `{method}`: {METHODS[method]}. Repair: `{job.recipe.options.repair}`. "
        f"Columns: `{report.head_dtype}`.{_refined(report)}\n"
    )


def _refined(report: CompressReport) -> str:
    found = report.refinement
    if found is None:
        return ""
    if not found.helped:
        return " Training them further did not help on held-out text: the closed form was kept."
    before, after = _number(found.kl_before, ".4g"), _number(found.kl_after, ".4g")
    return f" Trained further for {found.steps} steps: KL on held-out calibration text from {before} to {after}."


def _drift_table(report: CompressReport) -> str:
    before, after, sizes = report.baseline, report.selected, report.bytes
    name = before.kind.capitalize()
    low, high = _percent(after.perplexity_drift_low), _percent(after.perplexity_drift_high)
    rows = [
        (name, _number(before.perplexity, ".4f"), _number(after.perplexity, ".4f")),
        (f"{name} drift (95 % interval)", "", f"{_percent(after.perplexity_drift)} ({low} to {high})"),
        ("KL divergence, nats per token", "", _number(after.kl_mean, ".3g")),
        ("Same most likely token", "", _percent(after.top1_agreement, sign="")),
        ("Bytes of the head", _count(sizes.head_before), _count(sizes.head_after)),
        ("Bytes of the checkpoint", _count(sizes.checkpoint_before), _count(sizes.checkpoint_after)),
    ]
    lines = ["## Measured", "", "| | before | after |", "|---|---|---|"]
    lines += [f"| {label} | {before} | {after} |" for label, before, after in rows]
    lines += ["", "The stored files were loaded again and evaluated before they were published.", ""]
    return "\n".join(lines)


def _times(report: CompressReport) -> str:
    """Of a step of decoding; empty without any."""
    found = report.time
    if found is None:
        return ""
    rows = [f"| {' | '.join(row)} |" for row in step_times(found)]
    head = [
        "## Time",
        "",
        "| a step of decoding | before, ms | after, ms | after over before |",
        "|---|---:|---:|---:|",
    ]
    return "\n".join([*head, *rows, "", f"Medians of plain eager calls in turns, on `{found.device}`.", ""])


def _exports(report: CompressReport) -> str:
    """For engines that do not know the format; empty without any."""
    texts = {
        "dense": "`dense/`: the same head at full width, for plain transformers: `from_pretrained(..., "
        'subfolder="dense")`. It saves nothing; it is there for comparisons.',
        "onnx": "`onnx/model.onnx`: the whole model with the smaller head, in float32, for ONNX runtimes.",
    }
    found = []
    for export in report.exports:
        without = " Without the bias of the mean repair." if export.bias == "left out" else ""
        drift = export.perplexity_drift
        measured = "" if drift is None else f" Perplexity drift {_percent(drift)}."
        found.append(f"- {texts[export.kind]}{measured}{without}")
    return "\n".join(["## Also here", "", *found, ""]) if found else ""


def _further_point(folder: str, report: CompressReport) -> str:
    name = folder.rpartition("/")[2]
    if report.selected.passes:
        return f"Revision `{name}`: a further point of the curve, inside the budget. `main` is the chosen one.\n"
    return (
        f"**Revision `{name}` is outside the budget of its job.** It was stored on request, for comparisons; `main` is "
        "the checkpoint that passed.\n\n" + "".join(f"- {sentence}\n" for sentence in refusals(report))
    )


def _revisions(report: CompressReport) -> str:
    """Empty without any."""
    found = [
        f"| `{point.name}` | {point.kept_columns} | {_percent(point.perplexity_drift)} | "
        f"{'inside' if point.passes else '**outside**'} |"
        for point in report.revisions
    ]
    head = [
        "## Further revisions",
        "",
        "| revision | kept columns | drift as stored | the budget |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *found, ""]) if found else ""


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)


def _percent(fraction: float | None, sign: str = "+") -> str:
    return "not measured" if fraction is None else f"{fraction * 100:{sign}.3f} %"


def _count(value: int | None) -> str:
    return "not measured" if value is None else f"{value:,}"
