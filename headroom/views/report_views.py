"""What a report says, as terminal text, for every kind of job. It asks no server."""

from pathlib import Path
from typing import TypeAlias

from rich.console import Group, RenderableType
from rich.text import Text

from headroom.contract.answers.job import JobView
from headroom.contract.report.report import AnalyzeReport, CompareReport, CompressReport, Report, SteerReport
from headroom.views.comparison_view import comparison_verdict, comparison_view
from headroom.views.compression_view import bytes_view, drift_view
from headroom.views.drift_parts import bands_view, corpora_view, groups_view, revisions_view
from headroom.views.dynamics_view import dynamics_view
from headroom.views.encoding_view import encoding_view
from headroom.views.frontier_view import frontier_view
from headroom.views.job_views import verdict
from headroom.views.rendering import pairs
from headroom.views.steering_view import steering_view

Views: TypeAlias = list[RenderableType]


def report_views(job: JobView, report: Report, folder: Path | None = None) -> Views:
    """`folder` is where the job's files were written to, if they were."""
    if isinstance(report, CompressReport):
        return _compression(job, report, folder)
    if isinstance(report, AnalyzeReport):
        return [encoding_view(report), remarks_view(report)]
    if isinstance(report, SteerReport):
        written = ["", places_view(folder, report)] if folder else []
        return [steering_view(report), *written, remarks_view(report)]
    if isinstance(report, CompareReport):
        parts = [groups_view(report), bands_view(report)]
        return [comparison_view(report), *parts, comparison_verdict(report), remarks_view(report)]
    return [dynamics_view(report), remarks_view(report)]


def _compression(job: JobView, report: CompressReport, folder: Path | None) -> Views:
    written = [bytes_view(report), "", places_view(folder, report), ""] if folder else []
    sizes = [] if folder else [bytes_view(report)]
    drift = [drift_view(job, report), frontier_view(report)]
    drift += [corpora_view(report), groups_view(report), bands_view(report)]
    drift.append(revisions_view(report))
    return [*drift, *written, verdict(job, report.baseline.kind), *sizes, remarks_view(report)]


def remarks_view(report: Report) -> RenderableType:
    """What the report wants its reader to know: what makes the figures weak, and the plain alternative."""
    warnings = [Text(f"Note: {text}", "yellow") for text in report.warnings]
    advice = report.advice if isinstance(report, CompressReport) else ""
    return Group(*warnings, *([Text(advice)] if advice else []))


def places_view(folder: Path, report: CompressReport | SteerReport) -> RenderableType:
    """Where the results are, and how to use them."""
    table = pairs()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text("Checkpoint in", "bold"), Text(str(folder)))
    table.add_row(Text("Report in", "bold"), Text(str(folder / "report.html")))
    is_sliced = isinstance(report, CompressReport)
    for export in report.exports if isinstance(report, CompressReport) else ():
        table.add_row(Text(f"Export, {export.kind}", "bold"), Text(str(folder / export.path)))
    load = f'{"import headroom; " if is_sliced else ""}{report.model.auto_class}.from_pretrained("{folder}")'
    table.add_row(Text("Load with", "bold"), Text(load))
    return table
