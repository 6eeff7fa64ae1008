"""The engine, end to end: one compression task, from a checked model folder to a checkpoint in staging and a report.

encoding (windows, backbone pass, statistics) -> analyzing (regression, basis) -> sweeping (curve, choice) ->
slicing and validating (write, load through the public loader, measure, gate again). Publishes nothing.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headroom.head import SlicedEmbedding
from service.compression.bands import drift_by_band
from service.compression.basis import build_basis
from service.compression.candidates import Waiting, measured_on, search_budget, waiting_for
from service.compression.checkpoint import Plan, plan_checkpoint, write_checkpoint
from service.compression.comparisons import compare_methods, compared_sizes
from service.compression.continuations import continuations_section, continue_text
from service.compression.drift import DriftPoint
from service.compression.encoding import encode
from service.compression.evaluation_sets import open_evaluation_sets, outside_shares
from service.compression.exports import check_exports, write_exports
from service.compression.frontier import Frontier
from service.compression.gate import Choice, StoredDrift, choose, stored_drift
from service.compression.groups import Gap, drift_by_group, small_groups
from service.compression.model_loading import load_tokenizer
from service.compression.offloading import room_of
from service.compression.phase_timer import PhaseTimer
from service.compression.precision import round_head
from service.compression.reading import Objective
from service.compression.refining import refine
from service.compression.report import advice, corpora_section, report_of_measurement, sizes, stored_section, unseen
from service.compression.slicing import SlicedFactors, slice_head, stored_logits
from service.compression.source import Source, open_source
from service.compression.statistics import neg_log_alpha
from service.compression.sweep import SweepHead, prepare
from service.compression.token_drift import TokenDrift, token_drift, token_drift_of
from service.compression.validation import (
    PERPLEXITY_TOLERANCE,
    TURNED_TABLE_TOLERANCE,
    StoredMeasurement,
    check_reproduces,
    load_stored,
    measure_stored,
)
from service.hashed_files import HashedFile
from service.jobs import Phase
from service.ports import EngineOutcome, EngineTask, Progress, Verdict
from service.recipes.compress import CompressRecipe, HeadDtype

COMPARED_POSITIONS = 16
# How many ratios `auto` tries when storing moved the drift of the first over the budget.
STORED_ATTEMPTS = 3


def compress(task: EngineTask[CompressRecipe], progress: Progress) -> EngineOutcome:
    """Of a compress job. Leaves a complete checkpoint in task.staging, or nothing when the gate refuses."""
    recipe, device, timer = task.recipe, torch.device(task.device), PhaseTimer(progress)
    repair = recipe.options.repair == "mean"
    with timer.phase(Phase.ENCODING) as report_progress:
        source = open_source(task, device, lambda done: report_progress(0.5 * done))
        check_exports(recipe, source)
        sets = open_evaluation_sets(task, source, device, lambda done: report_progress(0.5 + 0.25 * done))
        statistics = source.statistics(recipe.method, device, lambda done: report_progress(0.75 + 0.25 * done))
        outside = outside_shares(sets, statistics) if recipe.evaluation else None
    with timer.phase(Phase.ANALYZING) as report_progress:
        target, floor_rows = neg_log_alpha(statistics.alpha)
        encoding = encode(source.head.weight, target, statistics.mean_hidden, recipe.options.seed)
        report_progress(0.4)
        basis = build_basis(recipe.method, source.head.weight, statistics, recipe.options.seed)
        report_progress(0.9)
        head = prepare(source.head, basis, statistics.mean_hidden, repair=repair, device=device)
    seed, frontier = recipe.options.seed, None

    def sliced(kept: int) -> SlicedFactors:
        return slice_head(source.head, basis, kept, statistics.mean_hidden, repair=repair)

    def rounded(factors: SlicedFactors, head_dtype: HeadDtype) -> SlicedFactors:
        return factors if head_dtype == "source" else round_head(factors, source.head, statistics, seed, head_dtype)

    def factors_of(kept: int, head_dtype: HeadDtype) -> SlicedFactors:
        return rounded(sliced(kept), head_dtype)

    def moved_by(
        kept: int, report_progress: Callable[[float], None], stored: SlicedFactors | None = None
    ) -> TokenDrift:
        """Of the nested head of this size, or of what is stored in its place."""
        if stored is not None and (stored.rounded or stored.refined):
            return token_drift_of(stored, source.evaluation, source.head, device, report_progress)
        return token_drift(source.evaluation, head, kept, progress=report_progress)

    with timer.phase(Phase.SWEEPING) as report_progress:
        if recipe.budget is None:
            choice = choose(sets, head, recipe, lambda done: report_progress(0.6 * done))
            waiting = waiting_for(choice, recipe.options)
        else:
            frontier = search_budget(source, sets, head, recipe, factors_of, lambda done: report_progress(0.6 * done))
            waiting = [Waiting.of(candidate, frontier.choice) for candidate in frontier.serving]
            nearest = Waiting.of(frontier.nearest, frontier.choice)
            choice = replace(frontier.choice, asked=(waiting or [nearest])[0].unrounded[0])
        moved = moved_by(choice.selected.kept_columns, lambda done: report_progress(0.6 + 0.1 * done))
        comparisons = compare_methods(
            source.evaluation,
            source.head,
            statistics,
            [method for method in recipe.options.compare if method is not recipe.method],
            compared_sizes(source.head.hidden_size, recipe.options.column_multiple),
            recipe.options.seed,
            repair=repair,
            device=device,
            progress=lambda done: report_progress(0.7 + 0.3 * done),
        )
    report = report_of_measurement(task, source, encoding, floor_rows, basis, choice)
    report |= {
        **_parts(source, moved, statistics.alpha, recipe.options.seed),
        "group_gap": _described(choice.sets[0].gaps.get(choice.selected.kept_columns)),
        "continuations": None,
        "unrounded": None,
        "exports": [],
        "frontier": None,
        "refinement": None,
        "comparisons": {method: [point.as_dict() for point in points] for method, points in comparisons.items()},
        "corpora": corpora_section(
            choice, [one.at(choice.selected.kept_columns) for one in choice.sets], outside, None
        ),
        "warnings": [*report["warnings"], *unseen(choice, outside), *small_groups(source.groups)],
    }
    if frontier is not None and not waiting:
        report |= _refused(frontier, nearest)
        if nearest.head_dtype != "source":
            kept = nearest.unrounded[0].kept_columns
            moved = moved_by(kept, lambda done: None, factors_of(kept, nearest.head_dtype))
            report |= _parts(source, moved, statistics.alpha, seed)
    share = 1 / (1 + len(recipe.options.export))  # of the checkpoint itself in the time of validating
    for _ in range(STORED_ATTEMPTS):
        if not waiting:
            break
        trial = waiting.pop(0)
        point = trial.unrounded[0]
        with timer.phase(Phase.SLICING) as report_progress:
            factors, refinement = sliced(point.kept_columns), None
            if recipe.options.refine:
                factors, refinement = refine(
                    factors,
                    source.head,
                    source.calibration,
                    shares_table=source.head.is_tied and recipe.options.tied == "keep" and trial.head_dtype == "source",
                    seed=seed,
                    device=device,
                    progress=lambda done: report_progress(0.8 * done),
                )
            known = None if factors.refined else trial.measured
            factors = rounded(factors, trial.head_dtype)
            predicted = known or measured_on(source, sets, point, factors, seed, device)
            plan, hashes = _write(task, source, factors, lambda done: report_progress(0.8 + 0.2 * done))
        with timer.phase(Phase.VALIDATING) as report_progress:
            stored, drifts, continuations = _validate(
                task, source, choice, predicted, device, lambda done: report_progress(share * done)
            )
            if point is not choice.selected or factors.rounded or factors.refined:
                moved = moved_by(point.kept_columns, lambda done: report_progress(share), factors)
                report |= _parts(source, moved, statistics.alpha, seed)
            passes = all(
                drift.passes(one.set.budget) and of_set.passes(one.set.budget)
                for one, drift, of_set in zip(choice.sets, drifts, predicted, strict=True)
            )
            exports: list[dict[str, Any]] = []
            if passes:
                exports, hashed = write_exports(
                    task, source, factors, choice, device, lambda done: report_progress(share + (1 - share) * done)
                )
                hashes |= hashed
        found = {
            "head_dtype": trial.head_dtype,
            "frontier": frontier.as_dict(trial.candidate) if frontier else None,
            "selected": predicted[0].as_dict() | {"passes": passes},
            "refinement": refinement.as_dict() if refinement else None,
            "unrounded": point.as_dict() if factors.rounded or factors.refined else None,
            "stored": stored_section(
                stored.perplexity, _difference(source, head, factors, stored), drifts[0], predicted[0]
            ),
            "corpora": corpora_section(choice, predicted, outside, drifts),
            "group_gap": _described(drifts[0].gap),
            "continuations": continuations,
            "exports": exports,
            "bytes": sizes(source, plan, factors),
        }
        if passes:
            return replace(_outcome(Verdict.PUBLISH, report | found, timer), hashes=hashes)
        _empty(task.staging)
        # What storing added to the drift of this size it will add to the others: skip those that it would fail too.
        waiting = [other for other in waiting if choice.may_store(other.expected, trial.expected, drifts)]
        best = waiting[0].unrounded[0].ratio if waiting else None
        report |= found | {"bytes": sizes(source, None, None), "largest_passing_ratio": best}
    return _outcome(Verdict.REJECT, {"bytes": sizes(source, None, None)} | report, timer)


def _refused(frontier: Frontier, nearest: Waiting) -> dict[str, Any]:
    """What the report of a budget that nothing meets says: the nearest head stands for the selected one."""
    assert nearest.measured is not None
    rounded = nearest.head_dtype != "source"
    return {
        "head_dtype": nearest.head_dtype,
        "frontier": frontier.as_dict(None),
        "selected": nearest.measured[0].as_dict() | {"passes": False},
        "unrounded": nearest.unrounded[0].as_dict() if rounded else None,
    }


def _parts(source: Source, moved: TokenDrift, alpha: Tensor, seed: int) -> dict[str, Any]:
    """The selected size by parts of the held-out text."""
    groups = drift_by_group(moved, source.groups, seed) if source.groups else []
    return {"bands": drift_by_band(moved, alpha, seed), "groups": groups}


def _described(gap: Gap | None) -> dict[str, Any] | None:
    return gap.as_dict() if gap else None


def _outcome(verdict: Verdict, report: dict[str, Any], timer: PhaseTimer) -> EngineOutcome:
    return EngineOutcome(verdict, report | {"advice": advice(report), "timing": timer.timing})


def _write(
    task: EngineTask[CompressRecipe], source: Source, factors: SlicedFactors, progress: Callable[[float], None]
) -> tuple[Plan, dict[str, HashedFile]]:
    options = task.recipe.options
    plan = plan_checkpoint(
        source.inspection,
        source.head,
        source.stored,
        factors,
        method=task.recipe.method.value,
        keep_tied=options.tied == "keep",
        keep_removed=options.keep_removed,
        base_model_prefix=source.base_model_prefix,
        fingerprint=_fingerprint(source, factors),
    )
    return plan, write_checkpoint(plan, source.inspection, task.staging, options.max_shard_bytes, progress)


@torch.inference_mode()
def _fingerprint(source: Source, factors: SlicedFactors) -> dict[str, Any]:
    """Logits that the stored model must give for `source.fingerprint`, from the original h."""
    ids, last = source.fingerprint.input_ids, torch.tensor([source.fingerprint.hidden])
    logits = stored_logits(source.head, factors, last)[:, ids]
    return {"input_ids": ids, "logits": [float(f"{value:.7g}") for value in logits[0]]}


def _validate(
    task: EngineTask[CompressRecipe],
    source: Source,
    choice: Choice,
    points: list[DriftPoint],
    device: torch.device,
    progress: Callable[[float], None],
) -> tuple[StoredMeasurement, list[StoredDrift], dict[str, Any] | None]:
    """Load what was written as a user would, and measure it on every window: the first set's figures, all drifts.

    And how it goes on with a few texts, as the report says it.
    """
    model = load_stored(task.staging, source.reading.auto_class, room_of(task, source.inspection, device))
    turned = isinstance(model.get_input_embeddings(), SlicedEmbedding) and source.head.weight.itemsize < 4
    measurements: list[StoredMeasurement] = []
    drifts = []
    for one, point in zip(choice.sets, points, strict=True):
        stored = measure_stored(
            model,
            one.set.hidden.examples,
            source.head,
            COMPARED_POSITIONS,
            lambda done: progress(0.9 * (len(measurements) + done) / len(choice.sets)),
        )
        check_reproduces(stored, point.perplexity, TURNED_TABLE_TOLERANCE if turned else PERPLEXITY_TOLERANCE)
        likelihood = stored.negative_log_likelihood
        seed = task.recipe.options.seed
        drifts.append(stored_drift(likelihood, one.baseline_likelihood, stored.lengths, seed, one.set.groups))
        measurements.append(stored)
    return measurements[0], drifts, _continuations(task, source, model, lambda done: progress(0.9 + 0.1 * done))


def _continuations(
    task: EngineTask[CompressRecipe], source: Source, model: Any, progress: Callable[[float], None]
) -> dict[str, Any] | None:
    count, seed = task.recipe.options.continuations, task.recipe.options.seed
    if not count or source.reading.objective is not Objective.CAUSAL:
        return None
    found = continue_text(model, source.evaluation.windows, source.head, count, seed, progress)
    return continuations_section(found, load_tokenizer(source.inspection.path), seed)


@torch.inference_mode()
def _difference(source: Source, head: SweepHead, factors: SlicedFactors, stored: StoredMeasurement) -> float:
    """Largest difference between the stored model's logits and the ones that were measured before storing."""
    hidden = next(source.evaluation.blocks(stored.first_logits.shape[0]))
    if factors.rounded is not None or factors.refined:
        return float((stored_logits(source.head, factors, hidden) - stored.first_logits).abs().max())
    x = (head.basis.coordinates(hidden.to(head.columns.device)) - head.center)[:, : factors.kept]
    predicted = source.head.transform(x @ head.columns[:, : factors.kept].T + head.constant)
    return float((predicted.cpu() - stored.first_logits).abs().max())


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
