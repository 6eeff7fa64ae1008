"""The heads that a job may store, in the order in which they are tried, and what is known of each before it is."""

from collections.abc import Callable

import torch

from headroom.contract.compress import CompressOptions, CompressRecipe, HeadDtype, RoundedDtype
from service.compression.drift.candidate import Candidate
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.evaluation_sets import EvaluationSet
from service.compression.drift.frontier import Frontier, sizes_for
from service.compression.drift.gate import Choice, choose
from service.compression.drift.stored_form_drift import measure_unnested
from service.compression.drift.sweep import SweepHead
from service.compression.heads.basis import Basis
from service.compression.heads.slicing import SlicedFactors
from service.compression.states.lm_head import LmHead
from service.compression.states.source import Source
from service.models.head_bytes import HeadShape


def head_shape(head: LmHead, basis: Basis, *, repair: bool) -> HeadShape:
    """From which bytes follow. repair: a mean repair gives every head a bias."""
    has_bias = head.module_bias is not None or repair
    return HeadShape(head.vocab_size, head.hidden_size, head.weight.element_size(), has_bias, basis.is_permutation)


def bytes_before(head: LmHead) -> int:
    """Of the head as it was."""
    return head.weight.nbytes + (0 if head.module_bias is None else head.module_bias.nbytes)


def candidate_at(choice: Choice, kept: int, head_dtype: HeadDtype, shape: HeadShape, before: int) -> Candidate:
    """Of a size that the sweep knows. before: bytes of the head as it was."""
    points, nbytes = [one.at(kept) for one in choice.sets], shape.nbytes(kept, head_dtype)
    measured = points if head_dtype == "source" else None
    return Candidate(head_dtype, points, measured, nbytes, nbytes / before, choice.allows(points))


def candidates_of(choice: Choice, options: CompressOptions, shape: HeadShape, before: int) -> list[Candidate]:
    """The point that was asked for, if it passes or is to be refined; of `auto` all that pass, fewest columns first."""
    points = choice.candidates
    if choice.asked is not None:
        points = [choice.asked] if options.refine or choice.asked in choice.candidates else []
    return [candidate_at(choice, point.kept_columns, options.head_dtype, shape, before) for point in points]


def search_budget(
    source: Source,
    sets: list[EvaluationSet],
    head: SweepHead,
    recipe: CompressRecipe,
    shape: HeadShape,
    made: Callable[[int, HeadDtype], SlicedFactors],
    progress: Callable[[float], None],
) -> Frontier:
    """Every head that the budget may choose, measured: the curve first, then rounded heads one by one."""
    assert recipe.budget is not None
    device, before = head.columns.device, bytes_before(source.head)
    further = sizes_for(recipe.budget, shape, before, recipe.options.column_multiple)
    choice = choose(sets, head, recipe, lambda done: progress(done / 3), further)
    done = 0

    def measure(kept: int, head_dtype: RoundedDtype) -> list[DriftPoint]:
        nonlocal done
        unrounded, start = choice.sets[0].at(kept), 1 - 2 / (3 + done)  # of the rest, as far as it is known
        done += 1
        end = 1 - 2 / (3 + done)
        factors = made(kept, head_dtype)
        seed = recipe.options.seed
        return measured_on(
            source, sets, unrounded, factors, seed, device, lambda d: progress(start + (end - start) * d)
        )

    frontier = Frontier(choice, shape, before, recipe.budget, measure)
    frontier.search()
    progress(1.0)
    return frontier


@torch.inference_mode()
def measured_on(
    source: Source,
    sets: list[EvaluationSet],
    point: DriftPoint,
    factors: SlicedFactors,
    seed: int,
    device: torch.device,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[DriftPoint]:
    """A rounded head on every set: it is not nested, so no sweep knows it."""
    found: list[DriftPoint] = []
    for one in sets:
        found.append(
            measure_unnested(
                one.hidden,
                source.head,
                factors,
                point.ratio,
                seed,
                device,
                one.rare,
                lambda done: progress((len(found) + done) / len(sets)),
            )
        )
    return found
