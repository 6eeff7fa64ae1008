"""The engine of an analyze job: how token probability is encoded in the output embedding. Changes no model."""

import torch

from service.compression.encoding import encode
from service.compression.phase_timer import PhaseTimer
from service.compression.report import report_of_encoding
from service.compression.source import open_source
from service.compression.statistics import neg_log_alpha
from service.jobs import Phase
from service.ports import EngineOutcome, EngineTask, Progress, Verdict
from service.recipes.analyze import AnalyzeRecipe
from service.recipes.compress import Method


def analyze(task: EngineTask[AnalyzeRecipe], progress: Progress) -> EngineOutcome:
    """Regression of -log alpha on the rows of the head, over the calibration part of the corpus."""
    device, timer = torch.device(task.device), PhaseTimer(progress)
    with timer.phase(Phase.ENCODING) as report_progress:
        source = open_source(task, device, lambda done: report_progress(0.75 * done))
        statistics = source.statistics(Method.PROBABILITY, device, lambda done: report_progress(0.75 + 0.25 * done))
    with timer.phase(Phase.ANALYZING):
        target, floor_rows = neg_log_alpha(statistics.alpha)
        encoding = encode(source.head.weight, target, statistics.mean_hidden, task.recipe.options.seed)
    report = report_of_encoding(task, source, encoding, floor_rows)
    return EngineOutcome(Verdict.REPORT, report | {"timing": timer.timing})
