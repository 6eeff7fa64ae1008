"""Heads in bit planes that a job may store: the fitted planes as each setting reads them, measured on every set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from headroom.contract.compress import RoundedDtype
from service.compression.drift.candidate import Candidate
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.gate import Choice
from service.compression.drift.plain_rivals import CPU, rival_forms
from service.compression.drift.planes.rescored_drift import PlaneReading, sweep_readings
from service.compression.drift.token_drift import TOP, TokenDrift, token_drift_at
from service.compression.heads.plane_fit import FittedPlanes
from service.compression.heads.read_planes import ReadPlanes
from service.compression.states.lm_head import LmHead

BITS = (8, 4, 3, 2)
RESCORED = (0, 256, 1024)
RIVALS: tuple[RoundedDtype, ...] = get_args(RoundedDtype)


@dataclass(frozen=True, eq=False)
class MeasuredCandidates:
    """Results of one pass over each evaluation set."""

    candidates: dict[PlaneReading, Candidate]
    moved: dict[PlaneReading, TokenDrift]  # of the calibrated corpus
    rivals: dict[RoundedDtype, DriftPoint]  # plain integers, on the calibrated corpus


def plane_candidates(
    choice: Choice,
    head: LmHead,
    planes: FittedPlanes,
    bits: Sequence[int],
    rescored: Sequence[int],
    *,
    before: int,
    stored: int,
    seed: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> MeasuredCandidates:
    """A candidate for every reading; beside them, in the same pass, plain integers on the calibrated corpus.

    before, stored: bytes of the head as it was, and of what it would have in the checkpoint. Cost: as sweep_readings
    for each set.
    """
    numbers = sorted({min(number, head.vocab_size) for number in rescored})
    found: list[dict[PlaneReading, DriftPoint]] = []
    moved: dict[PlaneReading, TokenDrift] = {}
    rivals: dict[RoundedDtype, DriftPoint] = {}
    forms = dict(zip(RIVALS, rival_forms(head, RIVALS, CPU), strict=True))
    for one in choice.sets:
        swept = sweep_readings(
            one.set.hidden,
            head,
            planes,
            bits,
            numbers,
            rare=one.set.rare,
            top=0 if moved else TOP,
            others=[] if rivals else list(forms.values()),
            progress=lambda done: progress((len(found) + done) / len(choice.sets)),
        )
        found.append(swept.points(head.hidden_size, seed))
        if not moved:
            of_column = (token_drift_at(swept.positions, one.set.hidden, place) for place in range(len(swept.readings)))
            moved = dict(zip(swept.readings, of_column, strict=True))
            rivals = dict(zip(forms, swept.others(seed), strict=True))
            forms.clear()
    candidates = {}
    for reading in found[0]:
        points = [of_set[reading] for of_set in found]
        nbytes = ReadPlanes(planes, reading.bits, reading.rescored).head_nbytes
        candidates[reading] = Candidate(
            head_dtype="planes",
            unrounded=points,
            measured=points,
            nbytes=nbytes,
            share=nbytes / before,
            stored_share=stored / before,
            passes=choice.allows(points),
            reading=reading,
        )
    return MeasuredCandidates(candidates, moved, rivals)
