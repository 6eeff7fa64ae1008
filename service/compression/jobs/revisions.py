"""Further points of the curve, stored beside the chosen one: each a checkpoint of its own, measured like it.

What of the model they do not change they share with it: the same files, under further names.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from headroom.contract.report.stored import Revision
from service.compression.checkpoint.checkpoint_writing import Bodies
from service.compression.drift.candidates import candidate_at
from service.compression.jobs.report import HeadFindings
from service.compression.jobs.storing import Stored, Storing, Written
from service.foundation.errors import StoredMismatch
from service.foundation.hashed_files import HashedFile
from service.publishing.revisions import revision_folder, revision_name, revision_sizes


@dataclass
class Revisions:
    """Further points: by folder what the report of each says, hashes of their files, and why some were left out."""

    found: dict[str, HeadFindings] = field(default_factory=dict)
    told: list[Revision] = field(default_factory=list)  # for the report of the chosen one
    hashes: dict[str, HashedFile] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def store_revisions(
    storing: Storing, chosen: Written, before: HeadFindings, bodies: Bodies | None, progress: Callable[[float], None]
) -> Revisions:
    """Whatever their verdict; staging holds the chosen one already. One that storing changed too much is left out.

    before: as Storing.measure has it.
    """
    task, choice, revisions = storing.task, storing.choice, Revisions()
    sizes = revision_sizes(task.recipe, storing.source.head.hidden_size)
    further = [kept for kept in sizes if kept != chosen.factors.kept]
    head_dtype = chosen.candidate.head_dtype
    if head_dtype == "planes":  # whose recipe asks for no further ratios
        return revisions
    for number, kept in enumerate(further):

        def on_point(done: float, number: int = number) -> None:
            progress((number + done) / len(further))

        path = revision_folder(kept)
        folder = task.staging / path
        folder.mkdir(parents=True)
        candidate = candidate_at(choice, kept, head_dtype, storing.shape, storing.before)
        planned = storing.plan(candidate, lambda done: on_point(0.2 * done))
        written = storing.write(planned, folder, bodies, lambda done: on_point(0.2 + 0.1 * done))
        try:
            stored = storing.measure(written, folder, before, lambda done: on_point(0.3 + 0.7 * done))
        except StoredMismatch as error:
            shutil.rmtree(folder)
            revisions.left_out.append(f"revision {revision_name(kept)} was left out: {error.message}")
            continue
        revisions.found[path] = stored.found
        revisions.told.append(_told(kept, written, stored, folder))
        revisions.hashes |= {f"{path}/{name}": file for name, file in written.hashes.items()}
    progress(1.0)
    return revisions


def _told(kept: int, written: Written, stored: Stored, folder: Path) -> Revision:
    point, drift = written.predicted[0], stored.drifts[0]
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return Revision(
        name=revision_name(kept),
        path=revision_folder(kept),
        ratio=point.ratio,
        kept_columns=kept,
        passes=stored.passes,
        perplexity_drift=drift.drift,
        perplexity_drift_low=drift.low,
        perplexity_drift_high=drift.high,
        kl_mean=point.kl_mean,
        top1_agreement=point.top1_agreement,
        checkpoint_bytes=written.plan.nbytes,
        added_bytes=sum(file.st_size for file in files if file.st_nlink == 1),
    )
