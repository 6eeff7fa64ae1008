"""The report of a job, its fields as docs/report.md names them. Figures only; nothing is measured or written here."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from headroom.contract.compress import CompressRecipe, RoundedDtype
from headroom.contract.job_recipe import JobRecipe
from service.compression.checkpoint.checkpoint import Plan
from service.compression.drift.candidates import bytes_before
from service.compression.drift.drift_points import WINDOWS_FOR_INTERVAL, DriftPoint
from service.compression.drift.gate import Choice, StoredDrift
from service.compression.drift.plain_rivals import rival_nbytes
from service.compression.encoding.encoding_report import fitted_section, sparsity_section
from service.compression.encoding.token_probability import Encoding
from service.compression.heads.basis import Basis
from service.compression.heads.read_planes import MadeHead
from service.compression.heads.slicing import SlicedFactors
from service.compression.states.lm_head import LmHead
from service.compression.states.source import Source
from service.ports.jobs import EngineTask

# A further corpus whose hidden states leave the calibration's directions, and whose predictions move, this much more
# than those of the held-out part was not covered by the calibration.
UNSEEN_SHARE, UNSEEN_KL = 1.25, 1.5
BITS = {"int8": 8, "int4": 4}


def versions() -> dict[str, str]:
    """Of the packages that figures depend on."""
    return {name: version(name) for name in ("headroom-lm", "torch", "transformers", "safetensors")}


def report_of_encoding(
    task: EngineTask[JobRecipe], source: Source, encoding: Encoding, floor_rows: int
) -> dict[str, Any]:
    """What was worked on, and how token probability is encoded in the head."""
    return report_of_source(task, source) | {
        "encoding": _encoding(encoding, floor_rows),
        "fitted": fitted_section(encoding, task.recipe.options.seed),
    }


def report_of_source(task: EngineTask[JobRecipe], source: Source) -> dict[str, Any]:
    """What was worked on."""
    head = source.head
    return {
        "kind": task.recipe.kind,
        "job_id": task.job_id,
        "model": {"id": task.model.id, "revision": task.model.revision, "digest": source.digest}
        | {"auto_class": source.reading.auto_class},
        "versions": versions(),
        "seed": task.recipe.options.seed,
        "device": task.device,
        "head": {
            "vocab_size": head.vocab_size,
            "hidden_size": head.hidden_size,
            "tied": head.is_tied,
            "bias": head.bias is not None,
            "transform": head.transform.describe(),
            "dtype": str(head.weight.dtype).removeprefix("torch."),
        },
        "corpus": _corpus(source),
        "warnings": _warnings(source),
    }


def report_of_measurement(
    task: EngineTask[CompressRecipe], source: Source, encoding: Encoding, floor_rows: int, basis: Basis, choice: Choice
) -> dict[str, Any]:
    """Everything that is known before a checkpoint is written. `selected` is what was asked for, passing or not."""
    recipe = task.recipe
    selected, best = choice.selected, choice.largest_passing
    return report_of_encoding(task, source, encoding, floor_rows) | {
        "method": basis.method.value,
        "repair": recipe.options.repair,
        "head_dtype": recipe.head_dtype,  # of a search: what it chose, once that is known
        "budget": recipe.drift.model_dump(),
        "baseline": {"perplexity": choice.baseline, "kind": source.reading.objective.perplexity},
        "curve": [point.as_dict() for point in choice.curve],
        "selected": selected.as_dict() | {"passes": selected in choice.candidates},
        "largest_passing_ratio": best.ratio if best else None,
        "warnings": _warnings(source),
    }


def corpora_section(
    choice: Choice, points: list[DriftPoint], outside: list[float] | None, stored: list[StoredDrift] | None
) -> list[dict[str, Any]]:
    """Each evaluation set at its point: as measured before storing, and as stored once that is known."""
    found = []
    for number, (one, selected) in enumerate(zip(choice.sets, points, strict=True)):
        drift = stored[number] if stored else None
        passes = drift.passes(one.set.budget) if drift else one.passes(selected.kept_columns)
        found.append(
            {
                "name": one.set.name,
                "digest": one.set.digest,
                "evaluation_tokens": one.set.hidden.positions,
                "evaluation_windows": len(one.set.hidden.examples),
                "budget": one.set.budget.model_dump(),
                "baseline": {"perplexity": one.baseline},
                "curve": [each.as_dict() for each in one.curve],
                "selected": selected.as_dict() | {"passes": passes},
                "stored": drift.as_dict() if drift else None,
                "outside_share": outside[number] if outside else None,
            }
        )
    return found


def unseen(choice: Choice, outside: list[float] | None) -> list[str]:
    """A warning for each corpus of a kind that the calibration did not hold, as its hidden states and drift show."""
    if outside is None:
        return []
    kept, own = choice.selected.kept_columns, choice.selected
    found = []
    for one, share in zip(choice.sets[1:], outside[1:], strict=True):
        kl = one.at(kept).kl_mean
        if share > UNSEEN_SHARE * outside[0] and kl > UNSEEN_KL * own.kl_mean:
            found.append(
                f"the calibration text does not cover {one.set.name!r}: {share:.1%} of the variance of its hidden "
                f"states lies outside the calibration's main directions ({outside[0]:.1%} of the held-out part's), and "
                f"its predictions move {kl / own.kl_mean:.1f} times as far (KL {kl:.3g} against {own.kl_mean:.3g}); "
                "put text of this kind into the corpus, in the proportion in which the model will meet it"
            )
    return found


def _corpus(source: Source) -> dict[str, Any]:
    return {
        "digest": source.corpus_digest,
        "objective": source.reading.objective.value,
        "calibration_tokens": source.calibration.positions,
        "evaluation_tokens": source.evaluation.positions,
        "calibration_windows": source.calibration.windows.shape[0],
        "evaluation_windows": source.evaluation.windows.shape[0],
        "stride": source.settings["window"],
        "backbone_from_cache": source.was_warm,
    } | source.settings


def _encoding(encoding: Encoding, floor_rows: int) -> dict[str, Any]:
    return {
        "r2": encoding.regression.r2,
        "r2_adjusted": encoding.regression.adjusted_r2,
        "r2_held_out": encoding.r2_held_out,
        "rank": encoding.regression.rank,
        "intercept": encoding.regression.intercept,
        "spearman": encoding.spearman,
        "slope_cosine_mean_hidden": encoding.slope_cosine_mean_hidden,
        "rows_at_floor": floor_rows,
        **sparsity_section(encoding.sparsity),
        "slopes": encoding.regression.slope.tolist(),
    }


def _warnings(source: Source) -> list[str]:
    found = []
    windows = source.evaluation.windows.shape[0]
    if windows < WINDOWS_FOR_INTERVAL:
        found.append(
            f"only {windows} evaluation windows: the interval says little below {WINDOWS_FOR_INTERVAL}; send more text"
        )
    if source.calibration.positions < 4 * source.head.hidden_size:
        found.append(
            f"only {source.calibration.positions} calibration tokens for {source.head.hidden_size} columns: "
            "more calibration text would give a better basis"
        )
    return found


def sizes(source: Source, plan: Plan | None, made: MadeHead | None) -> dict[str, int | None]:
    """Bytes before and after. What a job that stored nothing would have written is not guessed: None.

    head: read for a position. stored: in the checkpoint, with an input table that the head shares or shared.
    """
    head, item = source.head, source.head.weight.element_size()
    table = head.vocab_size * head.hidden_size * item
    old_bias = 0 if head.module_bias is None else head.module_bias.nbytes
    before = source.inspection.nbytes
    tensors = sum(entry.nbytes for entry in source.inspection.tensors.values())
    # Decoding one token reads every weight but the input table, of which it reads a row; a tied table is the head.
    read_before = before if head.is_tied else before - table
    known: dict[str, int | None] = {
        "checkpoint_before": before,
        "head_before": table + old_bias,
        "stored_before": table + old_bias,
        "decode_read_before": read_before,
    }
    if plan is None or made is None:
        after = dict.fromkeys(("checkpoint_after", "head_after", "stored_after", "decode_read_after"))
        return known | {"head_before": table} | after
    rotation = made.rotation if isinstance(made, SlicedFactors) else None  # of planes it is counted with the head
    turning = rotation.nbytes if rotation is not None and plan.config["quantization_config"]["tied"] else 0
    return known | {
        "checkpoint_after": plan.nbytes,
        "head_after": made.head_nbytes,
        "stored_after": table + old_bias + plan.nbytes - tensors,  # everything else is as it was
        "decode_read_after": read_before - table - old_bias + made.head_nbytes + turning,
    }


def plain_section(points: Mapping[RoundedDtype, DriftPoint], head: LmHead) -> dict[str, Any]:
    """What anyone would do instead, measured: all of the head's rows as integers, by precision."""
    before = bytes_before(head)
    whole = {"ratio": 0.0, "kept_columns": head.hidden_size}
    return {
        name: {"head_bytes": rival_nbytes(name, head), "share": rival_nbytes(name, head) / before}
        | point.as_dict()
        | whole
        for name, point in points.items()
    }


def advice(report: dict[str, Any]) -> str:
    """What a user should know before using the result: the plain alternative, as it was measured beside."""
    found = report["bytes"]
    after, before = found["head_after"], found["head_before"]
    plain, frontier = plain_words(report["plain"]), report.get("frontier")
    if frontier is not None:
        return _searched(report, frontier)
    if after is None or not before:
        return f"Nothing was stored. {plain}"
    reads = f"This head reads {after / before:.2f} of the original bytes"
    if report["head_dtype"] == "planes":
        reads += f" and stores {found['stored_after'] / found['stored_before']:.2f} of them"
        return f"{reads}. {plain}"
    if report["head_dtype"] != "source":
        reads += f", {BITS[report['head_dtype']]}-bit columns included"
    return f"{reads}. {plain}{_grown(found)}"


def plain_words(plain: dict[str, Any]) -> str:
    """One sentence of each measured plain head, and how to have one."""
    told = [
        f"All columns in {BITS[name]} bits, measured on the same text, read {one['share']:.2f} of the head's bytes: "
        f"perplexity {one['perplexity_drift']:+.2%}, KL {one['kl_mean']:.2g} nats a token, the same most probable "
        f"token at {one['top1_agreement']:.1%} of positions (ratio 0, options.head_dtype {name})."
        for name, one in plain.items()
    ]
    return " ".join(told)


def _searched(report: dict[str, Any], frontier: dict[str, Any]) -> str:
    """Of a budget: what was compared, plain rounded heads among it."""
    in_planes = sum(one["head_dtype"] == "planes" for one in frontier["points"])
    compared = f"{frontier['swept']} sizes in the model's own dtype, {in_planes} readings of planes and "
    compared += f"{frontier['measured']} rounded heads"
    found = report["bytes"]
    if found["head_after"] is None:
        return (
            f"Nothing was stored. Compared were {compared}; the frontier says what each would cost. "
            f"{plain_words(report['plain'])}"
        )
    return (
        f"This head reads {found['head_after'] / found['head_before']:.2f} of the original bytes and stores "
        f"{found['stored_after'] / found['stored_before']:.2f}: the best for this budget of {compared}."
        f" {plain_words(report['plain'])}{_grown(found)}"
    )


def _grown(found: dict[str, int | None]) -> str:
    """Why the file of a tied model is larger now."""
    before, after = found["checkpoint_before"], found["checkpoint_after"]
    if before is None or after is None or after <= before:
        return ""
    return (
        f" The checkpoint holds {after:,} bytes, {before:,} before: the head shared the input table, which must stay "
        "as it was, and has one of its own now."
    )


def stored_section(perplexity: float, difference: float, drift: StoredDrift, point: DriftPoint) -> dict[str, Any]:
    return {
        "perplexity": perplexity,
        "predicted_perplexity": point.perplexity,
        "max_logit_difference": difference,
    } | drift.as_dict()
