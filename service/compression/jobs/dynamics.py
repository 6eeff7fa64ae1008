"""The engine of a dynamics job: how well the head tells token frequency and probability, from checkpoint to checkpoint.

Source: arXiv 2406.01468, section 6 (frequency is encoded early in training). Every checkpoint reads the same windows,
made by the tokenizer of the last one; one head is in memory at a time. Changes no model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from headroom.contract.answers.job import Phase
from headroom.contract.compress import Method
from headroom.contract.dynamics import DynamicsRecipe
from headroom.contract.report.dynamics import FrequencyTokens, Readable, TrainingCheckpoint
from headroom.contract.report.encoding import RegressionFigures
from headroom.contract.report.part import Measured
from headroom.contract.report.report import DynamicsReport
from headroom.contract.report.source import ModelOfReport
from service.compression.drift.drift_points import baseline_perplexity
from service.compression.drift.sweep import prepare, sweep
from service.compression.encoding.token_probability import FittedEncoding, encode
from service.compression.heads.basis import Basis
from service.compression.jobs.phase_timer import PhaseTimer
from service.compression.jobs.report import report_of_source
from service.compression.states.source import Source, open_source
from service.compression.states.statistics import neg_log_alpha
from service.foundation.errors import UnsupportedModel
from service.ports.engine import EngineOutcome, EngineTask, Progress, Verdict
from service.ports.models import LocalModel

READABLE_SHARE = 0.9  # of the last checkpoint's rank correlation


def dynamics(task: EngineTask[DynamicsRecipe], progress: Progress) -> EngineOutcome:
    """Regressions on the rows of every checkpoint's head, and its loss on the held-out part of the corpus."""
    device, timer = torch.device(task.device), PhaseTimer(progress)
    models = [*task.models[1:], task.model]
    rows: list[TrainingCheckpoint] = []
    with timer.phase(Phase.ENCODING) as report_progress:
        steps = 1 + len(models)
        last = open_source(task, device, lambda done: report_progress(done / steps))
        counts = token_counts(last)
        for model in models:
            tell = partial(_tell, report_progress, 1 + len(rows), steps)
            rows.append(_measured(task, model, counts, device, tell))
    report = DynamicsReport(
        **dict(report_of_source(task, last)),
        kind="dynamics",
        frequency_tokens=FrequencyTokens(positions=int(counts.sum()), distinct=int((counts > 0).sum())),
        checkpoints=tuple(rows),
        readable=readable(rows),
    )
    return EngineOutcome(Verdict.REPORT, timer.timed(report))


def _tell(progress: Callable[[float], None], ended: int, steps: int, done: float) -> None:
    progress((ended + done) / steps)


def token_counts(source: Source) -> Tensor:
    """(vocab,) int64: how often each token comes in the corpus, of the positions that are predicted."""
    targets = torch.cat([source.calibration.targets, source.evaluation.targets])
    return torch.bincount(targets, minlength=source.head.vocab_size)


def readable(rows: Sequence[TrainingCheckpoint]) -> Readable:
    """The first checkpoint whose rank correlation with frequency is near the last one's, and how far the loss had
    fallen by then: 0 at the first checkpoint, 1 at the last."""
    correlations, losses = [_number(row.frequency.spearman) for row in rows], [_number(row.loss) for row in rows]
    found = (number for number, one in enumerate(correlations) if one >= READABLE_SHARE * correlations[-1])
    index = next(found, len(rows) - 1)
    fall = losses[0] - losses[-1]
    share = (losses[0] - losses[index]) / fall if fall > 0 else None
    return Readable(share=READABLE_SHARE, checkpoint=index, loss_fallen=share)


def _number(found: Measured) -> float:
    return math.nan if found is None else found


def _measured(
    task: EngineTask[DynamicsRecipe],
    model: LocalModel,
    counts: Tensor,
    device: torch.device,
    progress: Callable[[float], None],
) -> TrainingCheckpoint:
    source = open_source(
        replace(task, models=(model,)), device, lambda done: progress(0.5 * done), tokenizer_folder=task.model.path
    )
    head, seed = source.head, task.recipe.options.seed
    if head.vocab_size != counts.numel():
        raise UnsupportedModel(
            f"{model.id} has {head.vocab_size:,} rows in its head, {task.model.id} has {counts.numel():,}; send "
            "checkpoints of one model"
        )
    statistics = source.statistics(Method.PROBABILITY, device, lambda done: progress(0.5 + 0.2 * done))
    came = counts > 0
    target, _ = neg_log_alpha(statistics.alpha)
    frequency = -torch.log(counts[came] / counts.sum(dtype=torch.float64))
    of_frequency = encode(head.weight.cpu()[came], frequency, statistics.mean_hidden, seed)
    of_probability = encode(head.weight, target, statistics.mean_hidden, seed)
    progress(0.8)
    perplexity = _perplexity(source, statistics.mean_hidden, device)
    progress(1.0)
    return TrainingCheckpoint(
        model=ModelOfReport(id=model.id, revision=model.revision, digest=source.digest),
        perplexity=perplexity,
        loss=float(torch.tensor(perplexity, dtype=torch.float64).log()),
        frequency=_figures(of_frequency),
        probability=_figures(of_probability),
    )


def _figures(encoding: FittedEncoding) -> RegressionFigures:
    found = encoding.regression
    return RegressionFigures(
        r2=found.r2, r2_adjusted=found.adjusted_r2, r2_held_out=encoding.r2_held_out, spearman=encoding.spearman
    )


def _perplexity(source: Source, mean_hidden: Tensor, device: torch.device) -> float:
    """Perplexity of the whole head on the held-out windows."""
    size = source.head.hidden_size
    columns = Basis(Method.RANDOM, torch.ones(size), order=torch.arange(size))  # all of them, in the head's own order
    head = prepare(source.head, columns, mean_hidden, repair=False, device=device)
    return baseline_perplexity(sweep(source.evaluation, head, [size]))
