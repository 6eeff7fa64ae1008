"""README.md of an artifact: what was removed, what it cost, how to load it, where it ends. Measures nothing."""

import json
from typing import Any

from headroom.contract.compress import CompressRecipe
from headroom.contract.report.report import CompressReport, SteerReport
from headroom.contract.report.stored import Revision
from service.ports.models import LocalModel
from service.records.job import Job
from service.reports.frontier_page import card_heads, chosen_words, in_planes
from service.reports.page_parts import step_times, template
from service.reports.refusals import refusals
from service.reports.steering_card import steering_card

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

# What the hub calls the tasks of models that these classes load.
PIPELINE_TAGS = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSeq2SeqLM": "text2text-generation",
}


def write_card(job: Job, model: LocalModel, report: CompressReport | SteerReport, folder: str = "") -> str:
    """The model card as Markdown with Hugging Face's front matter. folder: of a further point of the curve."""
    auto_class = report.model.auto_class
    source = f"`{model.id}`" + (f" at revision `{model.revision}`" if model.revision else "")
    shared = {"report": report, "job_id": job.id, "name": model.id.split("/", 1)[-1], "source": source}
    if isinstance(report, SteerReport):
        front = _front_matter(model, auto_class, ["steered"])
        return template("steering_card.md").render(shared, front_matter=front, **steering_card(report))
    found = report.frontier
    parts = {
        "front_matter": _front_matter(model, auto_class, ["compressed", "pruned-head"]),
        "revision": folder.rpartition("/")[2],
        "refusals": refusals(report),
        "changed": _changed(job, source, report),
        "measured": _measured(report),
        "frontier": {"chosen": chosen_words(found), "heads": card_heads(report, found)} if found else None,
        "times": step_times(report.time) if report.time else None,
        "exports": _exports(report),
        "revisions": [_revision(point) for point in report.revisions],
    }
    return template("model_card.md").render(shared, **parts)


def _front_matter(model: LocalModel, auto_class: str, tags: list[str]) -> str:
    fields: dict[str, Any] = {
        "base_model": model.id,
        "library_name": "transformers",
        "pipeline_tag": PIPELINE_TAGS[auto_class],
        "tags": ["headroom", *tags],
    }
    # JSON is YAML, so no value can break out of its line.
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items())


def _changed(job: Job, source: str, report: CompressReport) -> str:
    head, selected = report.head, report.selected
    removed = f"{head.hidden_size - selected.kept_columns} of {head.hidden_size}"
    tied = "shares its table with the input embedding" if head.tied else "has a table of its own"
    assert isinstance(job.recipe, CompressRecipe)
    method = job.recipe.method.value
    if report.head_dtype == "planes" and report.planes is not None:
        return (
            f"Made from {source}. The output head ({head.vocab_size} tokens, {head.hidden_size} columns, {tied}) "
            f"{in_planes(report.planes)} All columns stay; everything else is as it was."
        )
    return (
        f"Made from {source}. The output head ({head.vocab_size} tokens, {head.hidden_size} columns, "
        f"{tied}) lost {removed} columns (ratio {selected.ratio:.4g}); everything else is as it was.\n\n"
        f"Method `{method}`: {METHODS[method]}. Repair: `{job.recipe.options.repair}`. "
        f"Columns: `{report.head_dtype}`.{_refined(report)}"
    )


def _refined(report: CompressReport) -> str:
    found = report.refinement
    if found is None:
        return ""
    if not found.helped:
        return " Training them further did not help on held-out text: the closed form was kept."
    before, after = _number(found.kl_before, ".4g"), _number(found.kl_after, ".4g")
    return f" Trained further for {found.steps} steps: KL on held-out calibration text from {before} to {after}."


def _measured(report: CompressReport) -> list[tuple[str, str, str]]:
    """What is told of it, before and after."""
    before, after, sizes = report.baseline, report.selected, report.bytes
    name = before.kind.capitalize()
    low, high = _percent(after.perplexity_drift_low), _percent(after.perplexity_drift_high)
    return [
        (name, _number(before.perplexity, ".4f"), _number(after.perplexity, ".4f")),
        (f"{name} drift (95 % interval)", "", f"{_percent(after.perplexity_drift)} ({low} to {high})"),
        ("KL divergence, nats per token", "", _number(after.kl_mean, ".3g")),
        ("Same most likely token", "", _percent(after.top1_agreement, sign="")),
        ("Bytes of the head", _count(sizes.head_before), _count(sizes.head_after)),
        ("Bytes of the checkpoint", _count(sizes.checkpoint_before), _count(sizes.checkpoint_after)),
    ]


def _exports(report: CompressReport) -> list[str]:
    """Sentences on what is there for engines that do not know the format."""
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
        found.append(f"{texts[export.kind]}{measured}{without}")
    return found


def _revision(point: Revision) -> tuple[str, str, str, str]:
    verdict = "inside" if point.passes else "**outside**"
    return f"`{point.name}`", str(point.kept_columns), _percent(point.perplexity_drift), verdict


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)


def _percent(fraction: float | None, sign: str = "+") -> str:
    return "not measured" if fraction is None else f"{fraction * 100:{sign}.3f} %"


def _count(value: int | None) -> str:
    return "not measured" if value is None else f"{value:,}"
