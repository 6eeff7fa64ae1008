"""The engine, end to end: one compression task, from a checked model folder to a checkpoint in staging and a report.

open (windows, backbone pass, statistics) -> analyze (regression, basis) -> choose (curve, candidates) -> report ->
store (write, load through the public loader, measure, gate again). Publishes nothing.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from headroom.contract.answers.job import Phase
from headroom.contract.compress import CompressRecipe, Method
from headroom.contract.report.worth import PlainHead
from service.compression.checkpoint.checkpoint_writing import Bodies
from service.compression.checkpoint.exports import check_exports, write_exports
from service.compression.drift.candidate import Candidate
from service.compression.drift.candidates import bytes_before, candidates_of, search_forms
from service.compression.drift.comparisons import compare_methods, compared_sizes
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.evaluation_sets import (
    EvaluationSet,
    open_evaluation_sets,
    outside_shares,
    with_rare_positions,
)
from service.compression.drift.frontier import Frontier, sizes_for
from service.compression.drift.gate import Choice, choose, choose_at_the_edge
from service.compression.drift.groups import small_groups
from service.compression.drift.plain_rivals import measure_rivals
from service.compression.drift.planes.measured_planes import MeasuredPlanes, check_planes, measure_planes
from service.compression.drift.token_drift import TokenDrift, token_drift
from service.compression.encoding.token_probability import FittedEncoding, encode
from service.compression.heads.basis import build_basis
from service.compression.jobs.job_heads import JobHeads
from service.compression.jobs.phase_timer import PhaseTimer
from service.compression.jobs.report import (
    HeadFindings,
    JobFindings,
    job_findings,
    plain_heads,
    report_of_encoding,
    sizes,
    told_corpora,
    unseen,
)
from service.compression.jobs.revisions import store_revisions
from service.compression.jobs.storing import Storing
from service.compression.jobs.worth import Worth, advice
from service.compression.numerics.freed_memory import return_freed_memory
from service.compression.sharding.sharded_source import open_spread_source
from service.compression.states.source import Source, open_source
from service.compression.states.statistics import Statistics, neg_log_alpha
from service.ports.engine import EngineOutcome, EngineTask, Progress, Verdict
from service.publishing.revisions import revision_sizes

# How many ratios `auto` tries when storing moved the drift of the first over the budget.
STORED_ATTEMPTS = 3


@dataclass(frozen=True, eq=False)
class Opened:
    """The model's head and its hidden states on every text."""

    source: Source
    sets: list[EvaluationSet]
    statistics: Statistics  # of the calibration windows
    outside: list[float] | None  # as evaluation_sets.outside_shares gives them


@dataclass(frozen=True, eq=False)
class Analyzed:
    """How token probability is encoded in the head, and the heads that follow."""

    encoding: FittedEncoding
    floor_rows: int  # of tokens that were never predicted
    heads: JobHeads


@dataclass(frozen=True, eq=False)
class Chosen:
    """What was measured, and what may be stored."""

    choice: Choice
    frontier: Frontier | None  # of a budget
    planes: MeasuredPlanes | None  # where they are considered
    waiting: list[Candidate]  # best first; none: the gate refuses
    nearest: Candidate | None  # where nothing that was searched may be stored
    moved: TokenDrift  # of the best head in planes, where that is the best of all; else of the curve's selected size
    comparisons: dict[str, list[DriftPoint]]
    plain: dict[str, PlainHead]  # all columns rounded, measured beside


def compress(task: EngineTask[CompressRecipe], progress: Progress) -> EngineOutcome:
    """Do a compress job. Leaves a complete checkpoint in task.staging, or nothing when the gate refuses."""
    timer = PhaseTimer(progress)
    opened = _open(task, timer)
    analyzed = _analyze(task.recipe, opened, torch.device(task.device), timer)
    chosen = _choose(task.recipe, opened, analyzed.heads, timer)
    storing = Storing(
        task=task,
        source=opened.source,
        heads=analyzed.heads,
        choice=chosen.choice,
        frontier=chosen.frontier,
        outside=opened.outside,
        plain=chosen.plain,
        measured_planes=chosen.planes,
    )
    found, unstored = _found(task, opened, analyzed, chosen), _unstored(chosen, storing)
    return_freed_memory()  # of encoding and the sweep: slicing needs the room
    return _store(storing, chosen.waiting, found, unstored, timer)


def _open(task: EngineTask[CompressRecipe], timer: PhaseTimer) -> Opened:
    recipe, device = task.recipe, torch.device(task.device)
    with timer.phase(Phase.ENCODING) as progress:
        opening = open_source if task.pool is None else open_spread_source
        source = opening(task, device, lambda done: progress(0.5 * done))
        check_exports(recipe, source)
        check_planes(recipe, source.head.vocab_size, source.head.hidden_size)
        revision_sizes(recipe, source.head.hidden_size)
        sets = open_evaluation_sets(task, source, device, lambda done: progress(0.5 + 0.25 * done))
        fisher = Method.FISHER in (recipe.method, *recipe.options.compare)  # it needs more of the statistics
        method = Method.FISHER if fisher else recipe.method
        statistics = source.statistics(method, device, lambda done: progress(0.75 + 0.25 * done))
        outside = outside_shares(sets, statistics) if recipe.evaluation else None
        return Opened(source, with_rare_positions(sets, statistics.alpha), statistics, outside)


def _analyze(recipe: CompressRecipe, opened: Opened, device: torch.device, timer: PhaseTimer) -> Analyzed:
    head, statistics, seed = opened.source.head, opened.statistics, recipe.options.seed
    with timer.phase(Phase.ANALYZING) as progress:
        target, floor_rows = neg_log_alpha(statistics.alpha)
        encoding = encode(head.weight, target, statistics.mean_hidden, seed)
        progress(0.4)
        basis = build_basis(recipe.method, head.weight, statistics, seed)
        progress(0.9)
    heads = JobHeads(
        head=head,
        basis=basis,
        statistics=statistics,
        seed=seed,
        device=device,
        repair=recipe.options.repair == "mean",
        keep_tied=recipe.options.tied == "keep",
    )
    return Analyzed(encoding, floor_rows, heads)


def _choose(recipe: CompressRecipe, opened: Opened, heads: JobHeads, timer: PhaseTimer) -> Chosen:
    """The curve, every head that the recipe may choose, and the selected size of the curve by its tokens."""
    source, seed = opened.source, recipe.options.seed
    with timer.phase(Phase.SWEEPING) as progress:
        head, before = heads.whole(), bytes_before(source.head)
        further: list[int] = []
        if recipe.budget is not None:
            further = sizes_for(recipe.budget, heads.shape, before, recipe.options.column_multiple)
        # Planes hold all columns: the curve stands beside them, and nothing is sought on it.
        sought = recipe.model_copy(update={"ratio": 0.0}) if recipe.head_dtype == "planes" else recipe
        choice = choose(opened.sets, head, sought, lambda done: progress(0.2 * done), further)
        del head  # in float32 it is twice the model's own: planes and slicing need the room
        planes = None
        if recipe.is_open or recipe.head_dtype == "planes":
            planes = measure_planes(recipe, choice, source, opened.statistics, lambda done: progress(0.2 + 0.3 * done))
        if _columns_may_win(recipe, choice, heads, planes):
            choice = choose_at_the_edge(choice, heads.whole(), recipe, lambda done: progress(0.5 + 0.1 * done))
        candidates, frontier, nearest = _candidates(recipe, choice, source, heads, planes, lambda done: progress(0.6))
        best = candidates[0] if candidates else nearest
        if planes is not None and best is not None and best.reading is not None:
            moved = planes.moved[best.reading]  # known already; the curve's would not be told
        else:
            kept, head = choice.selected.kept_columns, heads.whole()
            moved = token_drift(source.evaluation, head, kept, progress=lambda done: progress(0.6 + 0.1 * done))
            del head
        comparisons = compare_methods(
            source.evaluation,
            source.head,
            opened.statistics,
            [method for method in recipe.options.compare if method is not recipe.method],
            compared_sizes(source.head.hidden_size, recipe.options.column_multiple),
            seed,
            repair=heads.repair,
            device=heads.device,
            progress=lambda done: progress(0.7 + 0.2 * done),
        )
        # Beside a search both are shown; else the one that anyone would take.
        rivals = (
            planes.rivals
            if planes
            else measure_rivals(
                source.evaluation,
                source.head,
                seed,
                names=("int8",) if frontier is None else ("int8", "int4"),
                device=heads.device,
                progress=lambda done: progress(0.9 + 0.1 * done),
            )
        )
    if frontier is not None and not planes:
        choice = replace(choice, asked=(nearest or candidates[0]).unrounded[0])
    return Chosen(choice, frontier, planes, candidates, nearest, moved, comparisons, plain_heads(rivals, source.head))


def _columns_may_win(recipe: CompressRecipe, choice: Choice, heads: JobHeads, planes: MeasuredPlanes | None) -> bool:
    """Whether fewer columns than any measured size that passed could be what the recipe seeks."""
    finer = choice.sizes_at_the_edge(recipe.options.column_multiple)
    if not finer or not recipe.seeks_the_smallest:
        return False
    passing = [one.nbytes for one in planes.candidates.values() if one.passes] if planes else []
    # A budget of drift is also searched with rounded columns, which are fewer bytes.
    return recipe.budget is not None or not passing or heads.shape.nbytes(finer[0], "source") < min(passing)


def _candidates(
    recipe: CompressRecipe,
    choice: Choice,
    source: Source,
    heads: JobHeads,
    planes: MeasuredPlanes | None,
    progress: Callable[[float], None],
) -> tuple[list[Candidate], Frontier | None, Candidate | None]:
    """What may be stored, best first; all that was searched for it; and what comes nearest where nothing may."""
    if recipe.head_dtype == "planes":
        assert planes is not None
        asked = planes.asked(recipe)
        return ([asked], None, None) if asked.passes else ([], None, asked)
    if recipe.budget is None and planes is None:
        before = bytes_before(source.head)
        found = candidates_of(choice, recipe.head_dtype, heads.shape, before, refine=recipe.options.refine)
        return found, None, None
    frontier = search_forms(
        choice,
        source,
        recipe.budget,
        heads.shape,
        list(planes.candidates.values()) if planes else [],
        heads.made,
        seed=recipe.options.seed,
        device=heads.device,
        progress=progress,
    )
    return frontier.serving, frontier, None if frontier.serving else frontier.nearest


def _found(task: EngineTask[CompressRecipe], opened: Opened, analyzed: Analyzed, chosen: Chosen) -> JobFindings:
    """What the report says whatever is stored."""
    source, choice = opened.source, chosen.choice
    return job_findings(
        task,
        source,
        report_of_encoding(task, source, analyzed.encoding, analyzed.floor_rows),
        analyzed.heads.basis,
        choice,
        chosen.comparisons,
        chosen.plain,
        (*unseen(choice, opened.outside), *small_groups(source.groups)),
    )


def _unstored(chosen: Chosen, storing: Storing) -> HeadFindings:
    """What is known before a checkpoint is written: of what was asked for, or of the nearest that a search found."""
    choice, selected, best = chosen.choice, chosen.choice.selected, chosen.choice.largest_passing
    gap = choice.sets[0].gaps.get(selected.kept_columns)
    found = HeadFindings(
        head_dtype=storing.task.recipe.head_dtype,
        selected=selected.judged(selected in choice.candidates),
        largest_passing_ratio=best.ratio if best else None,
        corpora=told_corpora(choice, [one.at(selected.kept_columns) for one in choice.sets], storing.outside, None),
        bands=storing.bands(chosen.moved),
        groups=storing.groups(chosen.moved),
        group_gap=gap.told if gap else None,
        bytes=sizes(storing.source, None, None),
        planes=chosen.planes.told(None) if chosen.planes else None,
    )
    return found if chosen.nearest is None else _refused(chosen, chosen.nearest, storing, found)


def _refused(chosen: Chosen, nearest: Candidate, storing: Storing, found: HeadFindings) -> HeadFindings:
    """What the report of a search says that found nothing: the nearest head stands for the selected one."""
    sliced = nearest.head_dtype == "source"
    told = replace(
        found,
        head_dtype=nearest.head_dtype,
        frontier=chosen.frontier.told(None) if chosen.frontier else None,
        selected=nearest.points[0].judged(False),
        corpora=told_corpora(chosen.choice, nearest.points, storing.outside, None),
        unrounded=None if sliced or nearest.reading else nearest.unrounded[0].told,
    )
    if sliced:
        return told
    moved = storing.moved_by(nearest.kept, lambda done: None, storing.unstored(nearest))
    return replace(told, bands=storing.bands(moved), groups=storing.groups(moved))


def _store(
    storing: Storing, waiting: list[Candidate], found: JobFindings, unstored: HeadFindings, timer: PhaseTimer
) -> EngineOutcome:
    """The first candidate that passes as it was stored, with its exports and revisions; or a rejection."""
    task, choice, source = storing.task, storing.choice, storing.source
    exported, published = len(task.recipe.options.export), len(task.recipe.options.publish_ratios)
    share = 1 / (1 + exported + published)  # of one checkpoint in the time of validating
    for _ in range(STORED_ATTEMPTS):
        if not waiting:
            break
        (tried, *waiting), bodies = waiting, Bodies() if published else None
        with timer.phase(Phase.SLICING) as progress:
            planned = storing.plan(tried, lambda done: progress(0.8 * done))
            worth = storing.worth(planned)
            if worth.refuses:
                return _rejection(found, _not_worth(unstored, tried, worth, storing), timer)
            written = storing.write(planned, task.staging, bodies, lambda done: progress(0.8 + 0.2 * done))
        with timer.phase(Phase.VALIDATING) as progress:
            stored = storing.measure(written, task.staging, unstored, lambda done: progress(share * done), timed=True)
            if stored.passes:
                exports, hashes = write_exports(
                    task,
                    source,
                    written.factors,
                    choice,
                    storing.device,
                    lambda done: progress(share * (1 + exported * done)),
                )
                further = store_revisions(
                    storing, written, unstored, bodies, lambda done: progress(1 - share * published * (1 - done))
                )
        if stored.passes:
            head = replace(stored.found, exports=exports, revisions=tuple(further.told))
            return EngineOutcome(
                Verdict.PUBLISH,
                timer.timed(found.report(head, advice(head, found.plain), tuple(further.left_out))),
                hashes=written.hashes | hashes | further.hashes,
                revisions={
                    path: timer.timed(found.report(one, advice(one, found.plain)))
                    for path, one in further.found.items()
                },
            )
        _empty(task.staging)
        # What storing added to the drift of this size it will add to the others: skip those that it would fail too.
        waiting = [other for other in waiting if choice.may_store(other.points, tried.points, stored.drifts)]
        best = next((other.unrounded[0].ratio for other in waiting if other.reading is None), None)
        unstored = replace(stored.found, bytes=sizes(source, None, None), largest_passing_ratio=best)
    return _rejection(found, unstored, timer)


def _not_worth(unstored: HeadFindings, tried: Candidate, worth: Worth, storing: Storing) -> HeadFindings:
    """What the report says of a head that passes and saves next to nothing: no other that passes saves more."""
    return replace(
        unstored,
        head_dtype=tried.head_dtype,
        selected=tried.points[0].judged(True),
        corpora=told_corpora(storing.choice, tried.points, storing.outside, None),
        worth=worth.told(storing.plain),
    )


def _rejection(found: JobFindings, head: HeadFindings, timer: PhaseTimer) -> EngineOutcome:
    return EngineOutcome(Verdict.REJECT, timer.timed(found.report(head, advice(head, found.plain))))


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
