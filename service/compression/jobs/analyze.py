"""The engine of an analyze job: how token probability is encoded in the output embedding. Changes no model."""

import torch

from headroom.contract.analyze import AnalyzeRecipe
from headroom.contract.answers.job import Phase
from headroom.contract.compress import Method
from headroom.contract.report.report import AnalyzeReport
from service.compression.encoding.encoding_report import columns_told, components_told
from service.compression.encoding.few_examples import fit_few_examples
from service.compression.encoding.principal_components import principal_components
from service.compression.encoding.token_probability import encode
from service.compression.jobs.phase_timer import PhaseTimer
from service.compression.jobs.report import report_of_encoding
from service.compression.numerics.rank_correlation import spearman
from service.compression.states.source import open_source
from service.compression.states.statistics import neg_log_alpha
from service.ports.engine import EngineOutcome, EngineTask, Progress, Verdict


def analyze(task: EngineTask[AnalyzeRecipe], progress: Progress) -> EngineOutcome:
    """Regression of -log alpha on the rows of the head, over the calibration part of the corpus."""
    device, timer = torch.device(task.device), PhaseTimer(progress)
    with timer.phase(Phase.ENCODING) as report_progress:
        source = open_source(task, device, lambda done: report_progress(0.75 * done))
        statistics = source.statistics(Method.PROBABILITY, device, lambda done: report_progress(0.75 + 0.25 * done))
    weight, seed = source.head.weight.cpu(), task.recipe.options.seed
    with timer.phase(Phase.ANALYZING) as report_progress:
        target, floor_rows = neg_log_alpha(statistics.alpha)
        encoding = encode(weight, target, statistics.mean_hidden, seed)
        report_progress(0.4)
        columns = spearman(weight, target)
        report_progress(0.5)
        components = principal_components(weight, target, encoding)
        report_progress(0.9)
        few = fit_few_examples(source.calibration, source.head, target, encoding, device)
    report = AnalyzeReport(
        **dict(report_of_encoding(task, source, encoding, floor_rows)),
        kind="analyze",
        columns=columns_told(encoding, columns),
        components=components_told(components),
        few_examples=few,
    )
    return EngineOutcome(Verdict.REPORT, timer.timed(report))
