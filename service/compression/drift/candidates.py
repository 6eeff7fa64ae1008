"""The heads that a job may store, in the order in which they are tried, and what is known of each before it is."""

from collections.abc import Callable, Sequence

import torch

from headroom.contract.compress import Budget, ColumnDtype, RoundedDtype
from service.compression.drift.candidate import Candidate
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.evaluation_sets import EvaluationSet
from service.compression.drift.frontier import Frontier
from service.compression.drift.gate import Choice
from service.compression.drift.stored_form_drift import measure_unnested
from service.compression.heads.basis import Basis
from service.compression.heads.slicing import SlicedFactors
from service.compression.states.lm_head import LmHead
from service.compression.states.source import Source
from service.models.head_bytes import HeadShape


def head_shape(head: LmHead, basis: Basis, *, repair: bool, keep_tied: bool) -> HeadShape:
    """The shape from which bytes follow. repair: a mean repair gives every head a bias."""
    return HeadShape(
        vocab_size=head.vocab_size,
        hidden_size=head.hidden_size,
        item=head.weight.element_size(),
        bias=head.module_bias is not None or repair,
        permutation=basis.is_permutation,
        shared=head.is_tied and keep_tied,
        separate=head.is_tied and not keep_tied,
    )


def bytes_before(head: LmHead) -> int:
    """Bytes of the head as it was."""
    return head.weight.nbytes + (0 if head.module_bias is None else head.module_bias.nbytes)


def candidate_at(choice: Choice, kept: int, head_dtype: ColumnDtype, shape: HeadShape, before: int) -> Candidate:
    """The candidate of a size that the sweep knows. before: bytes of the head as it was."""
    points, nbytes = [one.at(kept) for one in choice.sets], shape.nbytes(kept, head_dtype)
    return Candidate(
        head_dtype=head_dtype,
        unrounded=points,
        measured=points if head_dtype == "source" else None,
        nbytes=nbytes,
        share=nbytes / before,
        stored_share=shape.stored_nbytes(kept, head_dtype) / before,
        passes=choice.allows(points),
    )


def candidates_of(
    choice: Choice, head_dtype: ColumnDtype, shape: HeadShape, before: int, *, refine: bool
) -> list[Candidate]:
    """The point that was asked for, if it passes or is to be refined; of `auto` all that pass, fewest columns first."""
    points = choice.candidates
    if choice.asked is not None:
        points = [choice.asked] if refine or choice.asked in choice.candidates else []
    return [candidate_at(choice, point.kept_columns, head_dtype, shape, before) for point in points]


def search_forms(
    choice: Choice,
    source: Source,
    budget: Budget | None,
    shape: HeadShape,
    planes: Sequence[Candidate],
    made: Callable[[int, ColumnDtype], SlicedFactors],
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[float], None],
) -> Frontier:
    """Every head that may be chosen: those of the curve, those in planes, and rounded ones measured one by one."""
    done = 0

    def measure(kept: int, head_dtype: RoundedDtype) -> list[DriftPoint]:
        nonlocal done
        start = 1 - 2 / (2 + done)  # of the whole, as far as it is known
        done += 1
        end = 1 - 2 / (2 + done)
        factors, point = made(kept, head_dtype), choice.sets[0].at(kept)
        sets = [one.set for one in choice.sets]
        return measured_on(source, sets, point, factors, seed, device, lambda d: progress(start + (end - start) * d))

    frontier = Frontier(choice, shape, bytes_before(source.head), budget, measure, planes)
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
