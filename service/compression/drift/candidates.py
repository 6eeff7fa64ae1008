"""The heads that a job may store, in the order in which they are tried, and what is known of each before it is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from headroom.contract.compress import CompressOptions, CompressRecipe, HeadDtype, RoundedDtype
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.evaluation_sets import EvaluationSet
from service.compression.drift.frontier import Candidate, Frontier, sizes_for
from service.compression.drift.gate import Choice, choose
from service.compression.drift.stored_form_drift import measure_unnested
from service.compression.drift.sweep import SweepHead
from service.compression.heads.slicing import SlicedFactors
from service.compression.states.source import Source
from service.models.head_bytes import HeadShape


@dataclass(frozen=True)
class Waiting:
    """A head that may be stored: its points in every set before rounding, and as rounded where that is known."""

    head_dtype: HeadDtype
    unrounded: list[DriftPoint]
    measured: list[DriftPoint] | None
    candidate: Candidate | None = None

    @classmethod
    def of(cls, candidate: Candidate, choice: Choice) -> "Waiting":
        unrounded = [one.at(candidate.kept) for one in choice.sets]
        return cls(candidate.head_dtype, unrounded, candidate.points, candidate)

    @property
    def expected(self) -> list[DriftPoint]:
        return self.measured or self.unrounded


def waiting_for(choice: Choice, options: CompressOptions) -> list[Waiting]:
    """The point that was asked for, if it passes or is to be refined; of `auto` all that pass, fewest columns first."""
    head_dtype, points = options.head_dtype, choice.candidates
    if choice.asked is not None:
        points = [choice.asked] if options.refine or choice.asked in choice.candidates else []
    found = [[one.at(point.kept_columns) for one in choice.sets] for point in points]
    return [Waiting(head_dtype, each, each if head_dtype == "source" else None) for each in found]


def search_budget(
    source: Source,
    sets: list[EvaluationSet],
    head: SweepHead,
    recipe: CompressRecipe,
    factors_of: Callable[[int, HeadDtype], SlicedFactors],
    progress: Callable[[float], None],
) -> Frontier:
    """Every head that the budget may choose, measured: the curve first, then rounded heads one by one."""
    assert recipe.budget is not None
    kind, size, device = source.head, source.head.hidden_size, head.columns.device
    item = kind.weight.element_size()
    has_bias = kind.module_bias is not None or recipe.options.repair == "mean"
    shape = HeadShape(kind.vocab_size, size, item, has_bias, head.basis.is_permutation)
    before = kind.weight.nbytes + (0 if kind.module_bias is None else kind.module_bias.nbytes)
    further = sizes_for(recipe.budget, shape, before, recipe.options.column_multiple)
    choice = choose(sets, head, recipe, lambda done: progress(done / 3), further)
    done = 0

    def measure(kept: int, head_dtype: RoundedDtype) -> list[DriftPoint]:
        nonlocal done
        unrounded, start = choice.sets[0].at(kept), 1 - 2 / (3 + done)  # of the rest, as far as it is known
        done += 1
        end = 1 - 2 / (3 + done)
        factors = factors_of(kept, head_dtype)
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
                lambda done: progress((len(found) + done) / len(sets)),
            )
        )
    return found
