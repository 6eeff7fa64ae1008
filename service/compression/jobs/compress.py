"""The engine, end to end: one compression task, from a checked model folder to a checkpoint in staging and a report.

encoding (windows, backbone pass, statistics) -> analyzing (regression, basis) -> sweeping (curve, choice) ->
slicing and validating (write, load through the public loader, measure, gate again). Publishes nothing.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headroom.contract.compress import CompressRecipe, HeadDtype, Method
from service.compression.checkpoint.checkpoint import Bodies
from service.compression.checkpoint.exports import check_exports, write_exports
from service.compression.drift.candidates import Waiting, search_budget, waiting_for
from service.compression.drift.comparisons import compare_methods, compared_sizes
from service.compression.drift.evaluation_sets import open_evaluation_sets, outside_shares
from service.compression.drift.frontier import Frontier
from service.compression.drift.gate import choose
from service.compression.drift.groups import small_groups
from service.compression.drift.sweep import SweepHead, prepare
from service.compression.drift.token_drift import token_drift
from service.compression.encoding.token_probability import encode
from service.compression.heads.basis import build_basis
from service.compression.heads.precision import round_head
from service.compression.heads.slicing import SlicedFactors, slice_head
from service.compression.jobs.phase_timer import PhaseTimer
from service.compression.jobs.report import advice, corpora_section, report_of_measurement, sizes, unseen
from service.compression.jobs.revisions import store_revisions
from service.compression.jobs.sharded_source import open_spread_source
from service.compression.jobs.storing import Storing, described_gap
from service.compression.numerics.freed_memory import return_freed_memory
from service.compression.states.source import open_source
from service.compression.states.statistics import neg_log_alpha
from service.ports.jobs import EngineOutcome, EngineTask, Progress, Verdict
from service.publishing.revisions import revision_sizes
from service.records.job import Phase

# How many ratios `auto` tries when storing moved the drift of the first over the budget.
STORED_ATTEMPTS = 3


def compress(task: EngineTask[CompressRecipe], progress: Progress) -> EngineOutcome:
    """Of a compress job. Leaves a complete checkpoint in task.staging, or nothing when the gate refuses."""
    recipe, device, timer = task.recipe, torch.device(task.device), PhaseTimer(progress)
    repair = recipe.options.repair == "mean"
    with timer.phase(Phase.ENCODING) as report_progress:
        opening = open_source if task.pool is None else open_spread_source
        source = opening(task, device, lambda done: report_progress(0.5 * done))
        check_exports(recipe, source)
        revision_sizes(recipe, source.head.hidden_size)
        sets = open_evaluation_sets(task, source, device, lambda done: report_progress(0.5 + 0.25 * done))
        fisher = Method.FISHER in (recipe.method, *recipe.options.compare)  # it needs more of the statistics
        method = Method.FISHER if fisher else recipe.method
        statistics = source.statistics(method, device, lambda done: report_progress(0.75 + 0.25 * done))
        outside = outside_shares(sets, statistics) if recipe.evaluation else None
    with timer.phase(Phase.ANALYZING) as report_progress:
        target, floor_rows = neg_log_alpha(statistics.alpha)
        encoding = encode(source.head.weight, target, statistics.mean_hidden, recipe.options.seed)
        report_progress(0.4)
        basis = build_basis(recipe.method, source.head.weight, statistics, recipe.options.seed)
        report_progress(0.9)
    seed, frontier = recipe.options.seed, None

    def prepared() -> SweepHead:
        return prepare(source.head, basis, statistics.mean_hidden, repair=repair, device=device)

    def sliced(kept: int) -> SlicedFactors:
        return slice_head(source.head, basis, kept, statistics.mean_hidden, repair=repair)

    def rounded(factors: SlicedFactors, head_dtype: HeadDtype) -> SlicedFactors:
        return factors if head_dtype == "source" else round_head(factors, source.head, statistics, seed, head_dtype)

    def factors_of(kept: int, head_dtype: HeadDtype) -> SlicedFactors:
        return rounded(sliced(kept), head_dtype)

    with timer.phase(Phase.SWEEPING) as report_progress:
        head = prepared()
        if recipe.budget is None:
            choice = choose(sets, head, recipe, lambda done: report_progress(0.6 * done))
            waiting = waiting_for(choice, recipe.options)
        else:
            frontier = search_budget(source, sets, head, recipe, factors_of, lambda done: report_progress(0.6 * done))
            waiting = [Waiting.of(candidate, frontier.choice) for candidate in frontier.serving]
            nearest = Waiting.of(frontier.nearest, frontier.choice)
            choice = replace(frontier.choice, asked=(waiting or [nearest])[0].unrounded[0])
        storing = Storing(
            task,
            source,
            sets,
            choice,
            frontier,
            basis,
            statistics.mean_hidden if repair else None,
            prepared,
            statistics.alpha,
            outside,
            device,
            sliced,
            rounded,
        )
        moved = token_drift(
            source.evaluation,
            head,
            choice.selected.kept_columns,
            progress=lambda done: report_progress(0.6 + 0.1 * done),
        )
        del head  # in float32 it is twice the model's own: slicing needs the room
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
        "shards": {"asked": task.pool.shards, "lost": task.pool.losses} if task.pool else None,
        **storing.parts(moved),
        "group_gap": described_gap(choice.sets[0].gaps.get(choice.selected.kept_columns)),
        "continuations": None,
        "unrounded": None,
        "exports": [],
        "revisions": [],
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
            stored_as = factors_of(kept, nearest.head_dtype)
            report |= storing.parts(storing.moved_by(kept, lambda done: None, stored_as))
    exported, published = len(recipe.options.export), len(recipe.options.publish_ratios)
    share = 1 / (1 + exported + published)  # of one checkpoint in the time of validating
    return_freed_memory()  # of encoding and the sweep: slicing needs the room
    for _ in range(STORED_ATTEMPTS):
        if not waiting:
            break
        trial, bodies = waiting.pop(0), Bodies() if published else None
        with timer.phase(Phase.SLICING) as report_progress:
            written = storing.write(trial, task.staging, bodies, report_progress)
        with timer.phase(Phase.VALIDATING) as report_progress:
            stored = storing.measure(written, task.staging, lambda done: report_progress(share * done))
            if stored.passes:
                exports, hashes = write_exports(
                    task,
                    source,
                    written.factors,
                    choice,
                    device,
                    lambda done: report_progress(share * (1 + exported * done)),
                )
                further = store_revisions(
                    storing, written, bodies, lambda done: report_progress(1 - share * published * (1 - done))
                )
        if stored.passes:
            told = report | stored.found | {"exports": exports, "revisions": further.described}
            outcome = _outcome(Verdict.PUBLISH, told | {"warnings": [*report["warnings"], *further.left_out]}, timer)
            revisions = {
                path: _outcome(Verdict.PUBLISH, report | found, timer).report for path, found in further.found.items()
            }
            return replace(outcome, hashes=written.hashes | hashes | further.hashes, revisions=revisions)
        _empty(task.staging)
        # What storing added to the drift of this size it will add to the others: skip those that it would fail too.
        waiting = [other for other in waiting if choice.may_store(other.expected, trial.expected, stored.drifts)]
        best = waiting[0].unrounded[0].ratio if waiting else None
        report |= stored.found | {"bytes": sizes(source, None, None), "largest_passing_ratio": best}
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


def _outcome(verdict: Verdict, report: dict[str, Any], timer: PhaseTimer) -> EngineOutcome:
    return EngineOutcome(verdict, report | {"advice": advice(report), "timing": timer.timing})


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
