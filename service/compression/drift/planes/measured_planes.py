"""The head of a job in bit planes: fitted once, measured as every setting of the recipe reads it. Stores nothing."""

from collections.abc import Callable
from dataclasses import dataclass

from headroom.contract.compress import CompressRecipe, RoundedDtype
from headroom.contract.report.frontier import PlanesOfReport, PlanesPoint, TemperedKl
from headroom.loading.plane_codes import GROUP
from service.compression.drift.candidate import Candidate
from service.compression.drift.candidates import bytes_before
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.gate import Choice
from service.compression.drift.planes.plane_candidates import BITS, RESCORED, plane_candidates
from service.compression.drift.planes.rescored_drift import PlaneReading
from service.compression.drift.planes.tempering import Tempering, choose_tau
from service.compression.drift.token_drift import TokenDrift
from service.compression.heads.plane_fit import WHOLE_COLUMNS, FittedPlanes, fit_planes
from service.compression.states.source import Source
from service.compression.states.statistics import Statistics
from service.foundation.errors import InvalidSelection

# Without a budget the best head is sought among these: fewer bits read as many bytes, as the planes are stored.
OPEN_BITS = (8, 4)


@dataclass(frozen=True, eq=False)
class MeasuredPlanes:
    """Planes fitted once, and a candidate for each way of reading them."""

    fitted: FittedPlanes
    tempering: Tempering
    candidates: dict[PlaneReading, Candidate]
    moved: dict[PlaneReading, TokenDrift]  # of the calibrated corpus
    rivals: dict[RoundedDtype, DriftPoint]  # plain integers, measured on the way

    def asked(self, recipe: CompressRecipe) -> Candidate:
        return self.candidates[reading_of(recipe, self.fitted.vocab_size)]

    def told(self, chosen: PlaneReading | None) -> PlanesOfReport:
        """The planes as the report has them. chosen: what is stored, if planes are."""
        return PlanesOfReport(
            bits=chosen.bits if chosen else None,
            rescored=chosen.rescored if chosen else None,
            whole_columns=self.fitted.whole_columns,
            tau=self.tempering.tau,
            tau_kl=tuple(TemperedKl(tau=tau, kl=kl) for tau, kl in self.tempering.kl_of.items()),
            held_out=self.tempering.held_out,
            curve=tuple(_told(reading, one) for reading, one in self.candidates.items()),
        )


def check_planes(recipe: CompressRecipe, vocab_size: int, hidden_size: int) -> None:
    """InvalidSelection for settings that this head cannot have, before any work."""
    if recipe.head_dtype != "planes":
        return
    asked = recipe.planes
    if "rescored" in asked.model_fields_set and asked.rescored > vocab_size:  # the default is cut to it
        raise InvalidSelection(
            f"options.planes.rescored is {asked.rescored}, but the vocabulary has {vocab_size} rows: ask for at most "
            "these"
        )
    if asked.whole_columns is not None and asked.whole_columns > hidden_size:
        raise InvalidSelection(
            f"options.planes.whole_columns is {asked.whole_columns}, but the head has {hidden_size} columns: ask for "
            "at most these"
        )


def reading_of(recipe: CompressRecipe, vocab_size: int) -> PlaneReading:
    """The reading that the recipe asks for, or its default: of 8 bits nothing is computed again."""
    asked = recipe.planes
    return PlaneReading(asked.bits, 0 if asked.bits == 8 else min(asked.rescored, vocab_size))


def measure_planes(
    recipe: CompressRecipe, choice: Choice, source: Source, statistics: Statistics, progress: Callable[[float], None]
) -> MeasuredPlanes:
    """Fit planes for the recipe's reading; measure them with more and with fewer bits and rows too."""
    asked = reading_of(recipe, source.head.vocab_size)
    options, head = recipe.options, source.head
    wanted = recipe.planes.whole_columns
    most = head.hidden_size // GROUP * GROUP  # the first columns fill whole groups
    whole = min(WHOLE_COLUMNS if wanted is None else wanted, most)
    tempering = choose_tau(
        source.calibration,
        head,
        statistics,
        asked,
        seed=options.seed,
        whole_columns=whole,
        progress=lambda done: progress(0.4 * done),
    )
    fitted = fit_planes(head, statistics, seed=options.seed, tau=tempering.tau, whole_columns=whole)
    separate = head.is_tied and options.tied != "keep"
    measured = plane_candidates(
        choice,
        head,
        fitted,
        OPEN_BITS if recipe.is_open and recipe.budget is None else BITS,
        (*RESCORED, asked.rescored),
        before=bytes_before(head),
        stored=fitted.stored_nbytes + (head.weight.nbytes if separate else 0),
        seed=options.seed,
        progress=lambda done: progress(0.5 + 0.5 * done),
    )
    return MeasuredPlanes(fitted, tempering, measured.candidates, measured.moved, measured.rivals)


def _told(reading: PlaneReading, one: Candidate) -> PlanesPoint:
    return PlanesPoint(
        **dict(one.points[0].judged(one.passes)),
        bits=reading.bits,
        rescored=reading.rescored,
        head_bytes=one.nbytes,
        share=one.share,
        stored_share=one.stored_share,
    )
