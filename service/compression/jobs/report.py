"""The report of a job, its fields as docs/report.md names them. Figures only; nothing is measured or written here."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from headroom.contract.compress import CompressRecipe, HeadDtype, RoundedDtype
from headroom.contract.job_recipe import JobRecipe
from headroom.contract.report.continuations import ContinuationsOfReport
from headroom.contract.report.curve import AllowedDrift, Baseline, CurvePoint, EvaluatedCorpus, JudgedPoint
from headroom.contract.report.drift_parts import BandDrift, GroupDrift, GroupGap
from headroom.contract.report.frontier import FrontierOfReport, PlanesOfReport
from headroom.contract.report.report import VERSION, CompressReport, EncodingReport, SourceReport
from headroom.contract.report.source import CorpusOfReport, HeadOfReport, LoadedModel, LogitTransform
from headroom.contract.report.stored import ByteCounts, Export, RefinementOfReport, Revision, Shards, StoredCheckpoint
from headroom.contract.report.times import TimesOfReport
from headroom.contract.report.worth import PlainHead, WorthOfReport
from service.compression.checkpoint.checkpoint import Plan
from service.compression.drift.candidates import bytes_before
from service.compression.drift.drift_points import WINDOWS_FOR_INTERVAL, DriftPoint
from service.compression.drift.gate import Choice, StoredDrift
from service.compression.drift.plain_rivals import rival_nbytes
from service.compression.encoding.encoding_report import encoding_told, fitted_told
from service.compression.encoding.token_probability import FittedEncoding
from service.compression.heads.basis import Basis
from service.compression.heads.read_planes import MadeHead
from service.compression.heads.slicing import SlicedFactors
from service.compression.states.lm_head import LmHead
from service.compression.states.source import Source
from service.ports.engine import EngineTask, ShardPool

# A further corpus whose hidden states leave the calibration's directions, and whose predictions move, this much more
# than those of the held-out part was not covered by the calibration.
UNSEEN_SHARE, UNSEEN_KL = 1.25, 1.5


@dataclass(frozen=True, eq=False)
class HeadFindings:
    """What a report says of one head: of the one that was asked for, the nearest to a budget, or the one stored.

    Fields are those of CompressReport.
    """

    head_dtype: HeadDtype
    selected: JudgedPoint
    largest_passing_ratio: float | None
    corpora: tuple[EvaluatedCorpus, ...]
    bands: tuple[BandDrift, ...]
    groups: tuple[GroupDrift, ...]
    group_gap: GroupGap | None
    bytes: ByteCounts
    planes: PlanesOfReport | None
    frontier: FrontierOfReport | None = None
    unrounded: CurvePoint | None = None
    refinement: RefinementOfReport | None = None
    worth: WorthOfReport | None = None
    stored: StoredCheckpoint | None = None
    continuations: ContinuationsOfReport | None = None
    time: TimesOfReport | None = None
    exports: tuple[Export, ...] = ()
    revisions: tuple[Revision, ...] = ()


@dataclass(frozen=True, eq=False)
class JobFindings:
    """What a report says of a whole job, whatever head comes of it."""

    encoded: EncodingReport
    method: str
    repair: str
    budget: AllowedDrift
    baseline: Baseline
    curve: tuple[CurvePoint, ...]
    comparisons: dict[str, tuple[CurvePoint, ...]]
    plain: dict[str, PlainHead]
    pool: ShardPool | None  # of a job in shards
    warnings: tuple[str, ...]

    def report(self, head: HeadFindings, advice: str, warnings: tuple[str, ...] = ()) -> CompressReport:
        """The report with this head. warnings: of the head, beside the job's."""
        own = {name: value for name, value in vars(self).items() if name not in ("encoded", "pool")}
        # Asked now: shards may be lost until the last of them is validated.
        own["shards"] = Shards(asked=self.pool.shards, lost=self.pool.losses) if self.pool else None
        own["warnings"] = (*self.warnings, *warnings)
        return CompressReport(**(dict(self.encoded) | own | vars(head)), kind="compress", advice=advice)


def versions() -> dict[str, str]:
    """The versions of the packages that figures depend on."""
    return {name: version(name) for name in ("headroom-lm", "torch", "transformers", "safetensors")}


def report_of_encoding(
    task: EngineTask[JobRecipe], source: Source, encoding: FittedEncoding, floor_rows: int
) -> EncodingReport:
    """Parts of a report: what was worked on, and how token probability is encoded in the head."""
    return EncodingReport(
        **dict(report_of_source(task, source)),
        encoding=encoding_told(encoding, floor_rows),
        fitted=fitted_told(encoding, task.recipe.options.seed),
    )


def report_of_source(task: EngineTask[JobRecipe], source: Source) -> SourceReport:
    """Parts of a report: what was worked on."""
    head = source.head
    return SourceReport(
        version=VERSION,
        job_id=task.job_id,
        model=LoadedModel(
            id=task.model.id,
            revision=task.model.revision,
            digest=source.digest,
            auto_class=source.reading.auto_class,
        ),
        versions=versions(),
        seed=task.recipe.options.seed,
        device=task.device,
        head=HeadOfReport(
            vocab_size=head.vocab_size,
            hidden_size=head.hidden_size,
            tied=head.is_tied,
            bias=head.bias is not None,
            transform=LogitTransform(**head.transform.describe()),
            dtype=str(head.weight.dtype).removeprefix("torch."),
        ),
        corpus=_corpus(source),
        warnings=_warnings(source),
    )


def job_findings(
    task: EngineTask[CompressRecipe],
    source: Source,
    encoded: EncodingReport,
    basis: Basis,
    choice: Choice,
    comparisons: Mapping[str, list[DriftPoint]],
    plain: dict[str, PlainHead],
    warnings: tuple[str, ...],
) -> JobFindings:
    """Findings of a job. warnings: beside those of the source."""
    return JobFindings(
        encoded=encoded,
        method=basis.method.value,
        repair=task.recipe.options.repair,
        budget=AllowedDrift(**task.recipe.drift.model_dump()),
        baseline=Baseline(perplexity=choice.baseline, kind=source.reading.objective.perplexity),
        curve=tuple(point.told for point in choice.curve),
        comparisons={method: tuple(point.told for point in points) for method, points in comparisons.items()},
        plain=plain,
        pool=task.pool,
        warnings=(*encoded.warnings, *warnings),
    )


def told_corpora(
    choice: Choice, points: list[DriftPoint], outside: list[float] | None, stored: list[StoredDrift] | None
) -> tuple[EvaluatedCorpus, ...]:
    """Evaluation sets at their points: as measured before storing, and as stored once that is known."""
    found = []
    for number, (one, selected) in enumerate(zip(choice.sets, points, strict=True)):
        drift = stored[number] if stored else None
        passes = drift.passes(one.set.budget) if drift else one.allows(selected)
        found.append(
            EvaluatedCorpus(
                name=one.set.name,
                digest=one.set.digest,
                evaluation_tokens=one.set.hidden.positions,
                evaluation_windows=len(one.set.hidden.examples),
                budget=AllowedDrift(**one.set.budget.model_dump()),
                baseline=Baseline(perplexity=one.baseline),
                curve=tuple(each.told for each in one.curve),
                selected=selected.judged(passes),
                stored=drift.told if drift else None,
                outside_share=outside[number] if outside else None,
            )
        )
    return tuple(found)


def unseen(choice: Choice, outside: list[float] | None) -> list[str]:
    """A warning for each corpus of a kind that the calibration did not hold, as its hidden states and drift show."""
    if outside is None:
        return []
    kept, own = choice.selected.kept_columns, choice.selected
    found = []
    for one, share in zip(choice.sets[1:], outside[1:], strict=True):
        kl = one.at(kept).kl_mean
        if share > UNSEEN_SHARE * outside[0] and kl > UNSEEN_KL * own.kl_mean:
            found.append(
                f"the calibration text does not cover {one.set.name!r}: {share:.1%} of the variance of its hidden "
                f"states lies outside the calibration's main directions ({outside[0]:.1%} of the held-out part's), and "
                f"its predictions move {kl / own.kl_mean:.1f} times as far (KL {kl:.3g} against {own.kl_mean:.3g}); "
                "put text of this kind into the corpus, in the proportion in which the model will meet it"
            )
    return found


def _corpus(source: Source) -> CorpusOfReport:
    return CorpusOfReport(
        **source.settings,
        digest=source.corpus_digest,
        objective=source.reading.objective.value,
        calibration_tokens=source.calibration.positions,
        evaluation_tokens=source.evaluation.positions,
        calibration_windows=source.calibration.windows.shape[0],
        evaluation_windows=source.evaluation.windows.shape[0],
        stride=source.settings["window"],
        backbone_from_cache=source.was_warm,
    )


def _warnings(source: Source) -> tuple[str, ...]:
    found = []
    windows = source.evaluation.windows.shape[0]
    if windows < WINDOWS_FOR_INTERVAL:
        found.append(
            f"only {windows} evaluation windows: the interval says little below {WINDOWS_FOR_INTERVAL}; send more text"
        )
    if source.calibration.positions < 4 * source.head.hidden_size:
        found.append(
            f"only {source.calibration.positions} calibration tokens for {source.head.hidden_size} columns: "
            "more calibration text would give a better basis"
        )
    return tuple(found)


def sizes(source: Source, plan: Plan | None, made: MadeHead | None) -> ByteCounts:
    """Bytes before and after. What a job that stored nothing would have written is not guessed: None.

    head: read for a position. stored: in the checkpoint, with an input table that the head shares or shared.
    """
    head, item = source.head, source.head.weight.element_size()
    table = head.vocab_size * head.hidden_size * item
    old_bias = 0 if head.module_bias is None else head.module_bias.nbytes
    before = source.inspection.nbytes
    tensors = sum(entry.nbytes for entry in source.inspection.tensors.values())
    # Decoding one token reads every weight but the input table, of which it reads a row; a tied table is the head.
    read_before = before if head.is_tied else before - table
    if plan is None or made is None:
        return ByteCounts(
            checkpoint_before=before,
            checkpoint_after=None,
            head_before=table,
            head_after=None,
            stored_before=table + old_bias,
            stored_after=None,
            decode_read_before=read_before,
            decode_read_after=None,
        )
    rotation = made.rotation if isinstance(made, SlicedFactors) else None  # of planes it is counted with the head
    turning = rotation.nbytes if rotation is not None and plan.config["quantization_config"]["tied"] else 0
    return ByteCounts(
        checkpoint_before=before,
        checkpoint_after=plan.nbytes,
        head_before=table + old_bias,
        head_after=made.head_nbytes,
        stored_before=table + old_bias,
        stored_after=table + old_bias + plan.nbytes - tensors,  # everything else is as it was
        decode_read_before=read_before,
        decode_read_after=read_before - table - old_bias + made.head_nbytes + turning,
    )


def plain_heads(points: Mapping[RoundedDtype, DriftPoint], head: LmHead) -> dict[str, PlainHead]:
    """Plain heads as measured, what anyone would do instead: all of the head's rows as integers, by precision."""
    before = bytes_before(head)
    whole = {"ratio": 0.0, "kept_columns": head.hidden_size}
    return {
        name: PlainHead(
            **(dict(point.told) | whole), head_bytes=rival_nbytes(name, head), share=rival_nbytes(name, head) / before
        )
        for name, point in points.items()
    }


def told_stored(perplexity: float, difference: float, drift: StoredDrift, point: DriftPoint) -> StoredCheckpoint:
    """The checkpoint as loaded again. difference: the largest of its logits from those measured before storing."""
    return StoredCheckpoint(
        **dict(drift.told),
        perplexity=perplexity,
        predicted_perplexity=point.perplexity,
        max_logit_difference=difference,
    )
