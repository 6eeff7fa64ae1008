"""What a report says, as terminal text, for every kind of job. It asks no server."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import RenderableType

from headroom.contract.records import JobRecord
from headroom.views.comparison_view import comparison_verdict, comparison_view
from headroom.views.drift_parts import bands_view, corpora_view, groups_view, revisions_view
from headroom.views.dynamics_view import dynamics_view
from headroom.views.frontier_view import frontier_view
from headroom.views.rendering import (
    bytes_view,
    drift_view,
    encoding_view,
    perplexity_name,
    places_view,
    remarks_view,
    verdict,
)
from headroom.views.steering_view import steering_view

Views: TypeAlias = list[RenderableType]


def report_views(job: JobRecord, report: Mapping[str, Any], folder: Path | None = None) -> Views:
    """`folder` is where the job's files were written to, if they were."""
    return VIEWS[job.kind](job, report, folder)


def _compression(job: JobRecord, report: Mapping[str, Any], folder: Path | None) -> Views:
    written = [bytes_view(report), "", places_view(folder, report), ""] if folder else []
    sizes = [] if folder else [bytes_view(report)]
    drift = [drift_view(job, report), frontier_view(report)]
    drift += [corpora_view(report), groups_view(report), bands_view(report)]
    drift.append(revisions_view(report))
    return [*drift, *written, verdict(job, perplexity_name(report)), *sizes, remarks_view(report)]


def _analysis(job: JobRecord, report: Mapping[str, Any], folder: Path | None) -> Views:
    return [encoding_view(report), remarks_view(report)]


def _steering(job: JobRecord, report: Mapping[str, Any], folder: Path | None) -> Views:
    written = ["", places_view(folder, report)] if folder else []
    return [steering_view(report), *written, remarks_view(report)]


def _comparison(job: JobRecord, report: Mapping[str, Any], folder: Path | None) -> Views:
    parts = [groups_view(report), bands_view(report)]
    return [comparison_view(report), *parts, comparison_verdict(job, report), remarks_view(report)]


def _dynamics(job: JobRecord, report: Mapping[str, Any], folder: Path | None) -> Views:
    return [dynamics_view(report), remarks_view(report)]


VIEWS: dict[str, Callable[[JobRecord, Mapping[str, Any], Path | None], Views]] = {
    "compress": _compression,
    "analyze": _analysis,
    "steer": _steering,
    "compare": _comparison,
    "dynamics": _dynamics,
}
