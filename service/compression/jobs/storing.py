"""One head of a compress job, written as a checkpoint and measured as it was stored. Decides nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headroom.contract.compress import CompressRecipe
from headroom.contract.report.continuations import ContinuationsOfReport
from headroom.contract.report.drift_parts import BandDrift, GroupDrift
from headroom.contract.report.times import TimesOfReport
from headroom.contract.report.worth import PlainHead
from headroom.loading.head import SlicedEmbedding
from headroom.loading.planes_head import PlanesEmbedding
from service.compression.checkpoint.checkpoint import Plan, plan_checkpoint
from service.compression.checkpoint.checkpoint_writing import Bodies, write_checkpoint
from service.compression.checkpoint.continuations import continuations_told, continue_text
from service.compression.checkpoint.planes_checkpoint import plan_planes
from service.compression.checkpoint.validation import (
    COMPARED_POSITIONS,
    PERPLEXITY_TOLERANCE,
    TURNED_TABLE_TOLERANCE,
    LoadedCheckpoint,
    StoredMeasurement,
    check_reproduces,
    load_stored,
)
from service.compression.drift.bands import drift_by_band
from service.compression.drift.candidate import Candidate
from service.compression.drift.candidates import bytes_before, measured_on
from service.compression.drift.drift_points import DriftPoint
from service.compression.drift.frontier import Frontier
from service.compression.drift.gate import Choice, StoredDrift, stored_drift
from service.compression.drift.groups import drift_by_group
from service.compression.drift.planes.measured_planes import MeasuredPlanes
from service.compression.drift.planes.rescored_drift import PlaneReading
from service.compression.drift.token_drift import TokenDrift, token_drift, token_drift_of
from service.compression.heads.read_planes import MadeHead, ReadPlanes
from service.compression.heads.refining import Refinement, refine
from service.compression.heads.slicing import SlicedFactors, nested_logits, stored_logits
from service.compression.jobs.job_heads import JobHeads
from service.compression.jobs.job_times import measure_times
from service.compression.jobs.report import HeadFindings, sizes, told_corpora, told_stored
from service.compression.jobs.worth import Worth
from service.compression.sharding.stored_shards import measure_in_shards
from service.compression.states.lm_head import LmHead
from service.compression.states.model_loading import load_tokenizer
from service.compression.states.offloading import room_of
from service.compression.states.source import Source
from service.compression.text.reading import Objective
from service.foundation.hashed_files import HashedFile
from service.models.head_bytes import HeadShape
from service.ports.engine import EngineTask


@dataclass(frozen=True, eq=False)
class Planned:
    """A checkpoint that could be written."""

    candidate: Candidate
    factors: MadeHead
    refinement: Refinement | None
    predicted: list[DriftPoint]  # in every set, before storing
    plan: Plan


@dataclass(frozen=True, eq=False)
class Written(Planned):
    """A checkpoint in a folder, not loaded yet."""

    hashes: dict[str, HashedFile]  # of its large files, by name


@dataclass(frozen=True, eq=False)
class Stored:
    """A written head, loaded and measured."""

    found: HeadFindings
    drifts: list[StoredDrift]  # in every set
    passes: bool


@dataclass(frozen=True, eq=False)
class Storing:
    """Stores heads of one job: what they have in common, and the steps from a candidate to stored files."""

    task: EngineTask[CompressRecipe]
    source: Source
    heads: JobHeads
    choice: Choice
    frontier: Frontier | None
    outside: list[float] | None  # as evaluation_sets.outside_shares gives them
    plain: dict[str, PlainHead]  # measured beside
    measured_planes: MeasuredPlanes | None  # where the job considers them

    @property
    def device(self) -> torch.device:
        return self.heads.device

    @property
    def shape(self) -> HeadShape:
        return self.heads.shape

    @property
    def before(self) -> int:
        return bytes_before(self.source.head)

    def plan(self, candidate: Candidate, progress: Callable[[float], None]) -> Planned:
        """The checkpoint of a candidate, as the job asks for it; nothing is written."""
        if candidate.reading is not None:
            planes = self.read_planes(candidate.reading)
            return Planned(candidate, planes, None, candidate.points, self._plan_planes(planes))
        factors, refinement, predicted = self._sliced(candidate, progress)
        return Planned(candidate, factors, refinement, predicted, self._plan_sliced(factors))

    def unstored(self, candidate: Candidate) -> MadeHead:
        """The head of a candidate, unrefined."""
        if candidate.reading is not None:
            return self.read_planes(candidate.reading)
        assert candidate.head_dtype != "planes"
        return self.heads.made(candidate.kept, candidate.head_dtype)

    def read_planes(self, reading: PlaneReading) -> ReadPlanes:
        assert self.measured_planes is not None
        return ReadPlanes(self.measured_planes.fitted, reading.bits, reading.rescored)

    def _sliced(
        self, candidate: Candidate, progress: Callable[[float], None]
    ) -> tuple[SlicedFactors, Refinement | None, list[DriftPoint]]:
        """Refined and rounded as the job asks, and what was measured of it."""
        assert candidate.head_dtype != "planes"
        options, head = self.task.recipe.options, self.source.head
        point, sets = candidate.unrounded[0], [one.set for one in self.choice.sets]
        factors, refinement = self.heads.sliced(candidate.kept), None
        if options.refine:
            factors, refinement = refine(
                factors,
                head,
                self.source.calibration,
                shares_table=head.is_tied and options.tied == "keep" and candidate.head_dtype == "source",
                seed=options.seed,
                device=self.device,
                progress=progress,
            )
        known = None if factors.refined else candidate.measured
        factors = self.heads.rounded(factors, candidate.head_dtype)
        predicted = known or measured_on(self.source, sets, point, factors, options.seed, self.device)
        return factors, refinement, predicted

    def _plan_sliced(self, factors: SlicedFactors) -> Plan:
        options = self.task.recipe.options
        return plan_checkpoint(
            self.source.inspection,
            self.source.head,
            self.source.stored,
            factors,
            method=self.task.recipe.method.value,
            keep_tied=options.tied == "keep",
            keep_removed=options.keep_removed,
            base_model_prefix=self.source.base_model_prefix,
            fingerprint=_fingerprint(self.source, factors),
        )

    def _plan_planes(self, planes: ReadPlanes) -> Plan:
        return plan_planes(
            self.source.inspection,
            self.source.head,
            self.source.stored,
            planes.planes,
            method=self.task.recipe.method.value,
            bits=planes.bits,
            rescored=planes.rescored,
            keep_tied=self.task.recipe.options.tied == "keep",
            base_model_prefix=self.source.base_model_prefix,
            fingerprint=_fingerprint(self.source, planes),
        )

    def write(
        self, planned: Planned, folder: Path, bodies: Bodies | None, progress: Callable[[float], None]
    ) -> Written:
        """Write a planned checkpoint. folder: empty; bodies: as write_checkpoint has it."""
        shard_bytes = self.task.recipe.options.max_shard_bytes
        hashes = write_checkpoint(planned.plan, self.source.inspection, folder, shard_bytes, progress, bodies)
        return Written(planned.candidate, planned.factors, planned.refinement, planned.predicted, planned.plan, hashes)

    def worth(self, planned: Planned) -> Worth:
        removed = 1 - planned.factors.kept / self.source.head.hidden_size
        return Worth(removed, sizes(self.source, planned.plan, planned.factors), self.task.recipe.seeks_the_smallest)

    def measure(
        self,
        written: Written,
        folder: Path,
        before: HeadFindings,
        progress: Callable[[float], None],
        *,
        timed: bool = False,
    ) -> Stored:
        """Load what was written as a user would, and measure it on every window. StoredMismatch.

        before: what was known before a head was stored; what stays of it stays.
        """
        factors, predicted, point = written.factors, written.predicted, written.candidate.unrounded[0]
        nested = _is_nested(factors)
        stored, drifts, continuations, times = self._validate(folder, written, progress, timed=timed)
        passes = all(
            drift.passes(one.set.budget) and of_set.passes(one.set.budget)
            for one, drift, of_set in zip(self.choice.sets, drifts, predicted, strict=True)
        )
        gap = drifts[0].gap
        found = replace(
            before,
            head_dtype=written.candidate.head_dtype,
            planes=self.measured_planes.told(written.candidate.reading) if self.measured_planes else None,
            frontier=self.frontier.told(written.candidate) if self.frontier else None,
            selected=predicted[0].judged(passes),
            refinement=written.refinement.told if written.refinement else None,
            unrounded=None if nested or isinstance(factors, ReadPlanes) else point.told,
            stored=told_stored(stored.perplexity, self._difference(factors, stored), drifts[0], predicted[0]),
            corpora=told_corpora(self.choice, predicted, self.outside, drifts),
            group_gap=gap.told if gap else None,
            continuations=continuations,
            time=times or before.time,
            bytes=sizes(self.source, written.plan, factors),
            worth=self.worth(written).told(self.plain),
        )
        if point is not self.choice.selected or not nested:
            moved = self.moved_by(point.kept_columns, lambda done: progress(1.0), factors)
            found = replace(found, bands=self.bands(moved), groups=self.groups(moved))
        return Stored(found, drifts, passes)

    def moved_by(self, kept: int, progress: Callable[[float], None], stored: MadeHead | None = None) -> TokenDrift:
        """The drift of the nested head of this size, or of what is stored in its place."""
        if isinstance(stored, ReadPlanes):
            assert self.measured_planes is not None
            return self.measured_planes.moved[PlaneReading(stored.bits, stored.rescored)]
        if stored is not None and not stored.is_nested:
            return token_drift_of(stored, self.source.evaluation, self.source.head, self.device, progress)
        return token_drift(self.source.evaluation, self.heads.whole(), kept, progress=progress)

    def bands(self, moved: TokenDrift) -> tuple[BandDrift, ...]:
        """Drift of one size by the frequency of tokens."""
        return drift_by_band(moved, self.heads.statistics.alpha, self.task.recipe.options.seed)

    def groups(self, moved: TokenDrift) -> tuple[GroupDrift, ...]:
        """Drift of one size by groups of texts; empty without any."""
        return drift_by_group(moved, self.source.groups, self.task.recipe.options.seed) if self.source.groups else ()

    def _validate(
        self, folder: Path, written: Written, progress: Callable[[float], None], *, timed: bool
    ) -> tuple[StoredMeasurement, list[StoredDrift], ContinuationsOfReport | None, TimesOfReport | None]:
        """The first set's figures, all drifts, and what else the report says of the loaded model."""
        source, choice, seed = self.source, self.choice, self.task.recipe.options.seed
        room = room_of(self.task, source.inspection, self.device)
        model = load_stored(folder, source.reading.auto_class, room)
        turned = (
            isinstance(model.get_input_embeddings(), (SlicedEmbedding, PlanesEmbedding))
            and source.head.weight.itemsize < 4
        )
        measurements: list[StoredMeasurement] = []
        drifts, loaded = [], LoadedCheckpoint(model, source.head)
        for one, point in zip(choice.sets, written.predicted, strict=True):

            def part(done: float) -> None:
                progress(0.9 * (len(measurements) + done) / len(choice.sets))

            hidden = one.set.hidden
            stored = measure_in_shards(loaded, folder, written.hashes, hidden, part)
            if stored is None:
                stored = loaded.measure(hidden.examples, COMPARED_POSITIONS, part, hidden)
            check_reproduces(stored, point.perplexity, TURNED_TABLE_TOLERANCE if turned else PERPLEXITY_TOLERANCE)
            assert stored.against_source is not None
            drifts.append(stored_drift(stored.against_source, one.set, seed))
            measurements.append(stored)
        del loaded  # with its head in float32
        continuations = self._continuations(model, lambda done: progress(0.9 + 0.1 * done))
        both = room_of(self.task, source.inspection, self.device, models=2)
        return measurements[0], drifts, continuations, measure_times(source, model, both) if timed else None

    def _continuations(self, model: Any, progress: Callable[[float], None]) -> ContinuationsOfReport | None:
        count, seed = self.task.recipe.options.continuations, self.task.recipe.options.seed
        if not count or self.source.reading.objective is not Objective.CAUSAL:
            return None
        found = continue_text(model, self.source.evaluation.windows, self.source.head, count, seed, progress)
        return continuations_told(found, load_tokenizer(self.source.inspection.path), seed)

    @torch.inference_mode()
    def _difference(self, factors: MadeHead, stored: StoredMeasurement) -> float:
        """Largest difference between the stored model's logits and the ones that were measured before storing."""
        head, hidden = self.source.head, self.source.evaluation.first(stored.first_logits.shape[0])
        if isinstance(factors, SlicedFactors) and factors.is_nested:
            predicted = nested_logits(head, self.heads.basis, factors.kept, self.heads.mean_hidden, hidden)
        else:
            predicted = _logits(head, factors, hidden)
        return float((predicted - stored.first_logits).abs().max())


def _is_nested(made: MadeHead) -> bool:
    """Whether the sweep knows it: a size of the head in the model's own dtype."""
    return isinstance(made, SlicedFactors) and made.is_nested


def _logits(head: LmHead, made: MadeHead, hidden: Tensor) -> Tensor:
    """(rows, hidden) -> (rows, vocab) as stored, float32, on the CPU."""
    return made.logits(head, hidden) if isinstance(made, ReadPlanes) else stored_logits(head, made, hidden)


@torch.inference_mode()
def _fingerprint(source: Source, factors: MadeHead) -> dict[str, Any]:
    """Logits that the stored model must give for `source.fingerprint`, from the original h."""
    ids, last = source.fingerprint.input_ids, torch.tensor([source.fingerprint.hidden])
    logits = _logits(source.head, factors, last)[:, ids]
    return {"input_ids": ids, "logits": [float(f"{value:.7g}") for value in logits[0]]}
