"""One span for each phase of an attempt, made from its progress. Costs a comparison where nobody collects traces."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from headroom.contract.answers.job import Phase
from headroom.contract.job_recipe import JobRecipe
from service.foundation.tracing import Attributes, NoSpan, Span, Tracer
from service.ports.engine import Engine, EngineOutcome, EngineTask, Progress
from service.records.job import Job


def attributes_of(job: Job) -> Attributes:
    """Attributes that every span of an attempt has."""
    return {
        "headroom.job_id": job.id,
        "headroom.attempt": job.attempt,
        "headroom.kind": job.recipe.kind,
        "headroom.model": job.recipe.model.id,
    }


class PhaseSpans:
    """A ports.Progress before another one. A phase lasts until the next begins, the last one as long as the block.

    Spans are below `job.trace`.
    """

    def __init__(self, progress: Progress, tracer: Tracer, job: Job) -> None:
        self._progress = progress
        self._tracer = tracer
        self._job = job
        self._phase: Phase | None = None
        self._span: Span = NoSpan()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def __call__(self, phase: Phase, fraction: float) -> None:
        if phase is not self._phase:
            self._open.close()
            self._phase = phase
            span = self._tracer.span(phase.value, attributes_of(self._job), self._job.trace)
            self._span = self._open.enter_context(span)
        self._progress(phase, fraction)

    def fail(self, code: str, message: str) -> None:
        """Mark the span of the present phase as failed."""
        self._span.fail(code, message)

    def telling_sizes(self, engine: Engine) -> Engine:
        """The engine; before it begins, the span of fetching is told how much was fetched."""

        def told(task: EngineTask[JobRecipe], progress: Progress) -> EngineOutcome:
            models, corpora = task.models, [corpus.path for corpus in task.corpora]
            sizes = {
                "headroom.model_bytes": sum(_bytes_below(model.path) for model in models),
                "headroom.corpus_bytes": sum(path.stat().st_size for path in corpora),
            }
            self._span.set(sizes)
            return engine(task, progress)

        return told

    def tell_published(self, sizes: list[int]) -> None:
        self._span.set({"headroom.published_bytes": sum(sizes), "headroom.published_files": len(sizes)})


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
