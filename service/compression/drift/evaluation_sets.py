"""The texts that a job is judged on: the held-out part of its corpus, and further corpora with budgets of their own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headroom.contract.compress import CALIBRATED, CalibratedDriftBudget, CompressRecipe, DriftBudget
from service.compression.drift.bands import are_rare
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.source import Source, open_source
from service.compression.states.statistics import Statistics
from service.ports.engine import EngineTask

# Directions that hold this share of the calibration's variance are its main subspace.
MAIN_SHARE = 0.99


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """One text that drift is measured on, with the budget it is judged by."""

    name: str
    digest: str
    hidden: HiddenStates
    budget: CalibratedDriftBudget
    groups: list[str] | None = None  # of each window
    rare: Tensor | None = None  # (positions,) bool: the token that came is of the rarest band


def open_evaluation_sets(
    task: EngineTask[CompressRecipe], source: Source, device: torch.device, progress: Callable[[float], None]
) -> list[EvaluationSet]:
    """The calibrated corpus first. A further corpus runs the backbone once more, and is kept by its own key."""
    recipe = task.recipe
    sets = [EvaluationSet(CALIBRATED, source.corpus_digest, source.evaluation, recipe.drift, source.groups)]
    # One window stays unused as its calibration part: all the rest of the text is measured.
    options = recipe.options.model_copy(update={"calibration_tokens": recipe.options.window, "group_field": None})
    for asked, file in zip(recipe.evaluation, task.corpora[1:], strict=True):
        reading = replace(
            task,
            recipe=recipe.model_copy(update={"options": options}),
            corpora=(file,),
        )
        part = _part_of(progress, len(sets) - 1, len(recipe.evaluation))
        other = open_source(reading, device, part)
        shared = set(DriftBudget.model_fields)
        budget = CalibratedDriftBudget(**(asked.drift or recipe.drift).model_dump(include=shared))
        sets.append(EvaluationSet(asked.name, other.corpus_digest, other.evaluation, budget))
    return sets


def with_rare_positions(sets: list[EvaluationSet], alpha: Tensor) -> list[EvaluationSet]:
    """The sets with their rare positions marked. alpha: (vocab,) of the calibration, which says what is rare."""
    return [replace(one, rare=are_rare(one.hidden.targets, alpha)) for one in sets]


def _part_of(progress: Callable[[float], None], number: int, count: int) -> Callable[[float], None]:
    return lambda done: progress((number + done) / count)


def outside_shares(sets: list[EvaluationSet], statistics: Statistics) -> list[float]:
    """The share of each set's variance around the calibration's mean that is outside its main subspace.

    About 1 - MAIN_SHARE for text like the calibration's, more for text of a kind that it did not hold.
    """
    mean = statistics.mean_hidden
    values, vectors = torch.linalg.eigh(statistics.second_moment - mean[:, None] * mean)
    held = values.clamp_min(0).flip(0).cumsum(0)
    main = vectors.flip(1)[:, : int((held < MAIN_SHARE * held[-1]).sum()) + 1]
    return [_outside(one.hidden, mean, main) for one in sets]


def _outside(hidden: HiddenStates, mean: Tensor, main: Tensor) -> float:
    total, inside = 0.0, 0.0
    for block in hidden.blocks(4096):
        centred = block.double() - mean
        total += float(centred.square().sum())
        inside += float((centred @ main).square().sum())
    return 1 - inside / total
