"""The engine of an analyze job: how token probability is encoded in the output embedding. Changes no model."""

from dataclasses import asdict

import torch

from service.compression.encoding import encode
from service.compression.encoding_report import columns_section, components_section
from service.compression.few_examples import fit_few_examples
from service.compression.phase_timer import PhaseTimer
from service.compression.principal_components import principal_components
from service.compression.rank_correlation import spearman
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
    found = {
        "columns": columns_section(encoding, columns),
        "components": components_section(components),
        "few_examples": [asdict(fit) for fit in few],
    }
    report = report_of_encoding(task, source, encoding, floor_rows) | found
    return EngineOutcome(Verdict.REPORT, report | {"timing": timer.timing})
