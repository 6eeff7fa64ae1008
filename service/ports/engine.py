"""The engine as the domain sees it: what it is given, what it tells meanwhile, what it gives back.

No tensors: the real one is service/compression/jobs/engines.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

from headroom.contract.answers.job import Phase
from headroom.contract.job_recipe import JobRecipe
from headroom.contract.report.report import Report
from service.foundation.hashed_files import HashedFile
from service.ports.models import LocalModel
from service.records.shards import Question

# Called at every step of long work, with the fraction of the phase done so far. Raises JobCanceled or
# AttemptSuperseded when the work should stop; cheap enough to call many times a second.
Progress: TypeAlias = Callable[[Phase, float], None]


@dataclass(frozen=True)
class CorpusFile:
    """A stored corpus on this machine's disk."""

    path: Path
    format: str
    field: str | None


# Answer a question for the shard of this number, into a new file at this path; the fraction done is told meanwhile.
ShardWork: TypeAlias = Callable[[int, Path, Callable[[float], None]], None]


class ShardPool(Protocol):
    """The workers on one job, as its engine sees them."""

    @property
    def shards(self) -> int:
        """How many shards were asked for."""

    def get(self, name: str) -> Path | None:
        """A file that `put` made, on this machine's disk."""

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Make a file that every worker can read."""

    def share(self, name: str, file: Path) -> bool:
        """Let every worker read a large file of this machine's disk, which must not change, where it lies; False where
        that would take a copy. It is shared until `drop`, or the end of the job."""

    def drop(self, name: str) -> None:
        """The end of `share`; `file` stays. Unknown names are ignored."""

    def answer(self, question: Question, count: int, work: ShardWork, progress: Callable[[float], None]) -> list[Path]:
        """The answers of all shards, in order. This process does shards with `work`, as other workers do.
        WorkerLost when a shard took too many workers with it. Also raises what `work` raises."""

    @property
    def losses(self) -> int:
        """How many times a shard was lost with its worker so far, and done again."""


RecipeT = TypeVar("RecipeT", bound=JobRecipe, covariant=True)


@dataclass(frozen=True)
class EngineTask(Generic[RecipeT]):
    """Everything the engine needs for one attempt; all paths exist."""

    job_id: str
    recipe: RecipeT
    models: tuple[LocalModel, ...]  # the recipe's model, then as recipe.other_models names them
    corpora: tuple[CorpusFile, ...]  # as recipe.corpora names them
    cache_dir: Path  # survives attempts and jobs; content-keyed
    staging: Path  # a checkpoint is written here
    device: str
    memory_bytes: int | None = None  # of the device; a model that does not fit is offloaded. None: every one fits
    pool: ShardPool | None = None  # of a job that is spread over workers

    @property
    def model(self) -> LocalModel:
        return self.models[0]

    @property
    def corpus(self) -> CorpusFile:
        """The one that calibrates, where the job does."""
        return self.corpora[0]


OFFLOADED_NAME = ".offloaded"  # in staging while an engine runs: weights of a model that does not fit into memory


class Verdict(StrEnum):
    PUBLISH = "publish"  # staging holds a checkpoint that passed
    REPORT = "report"  # the job was to measure; it makes no files
    REJECT = "reject"  # the drift gate refused; staging is empty


@dataclass(frozen=True)
class EngineOutcome:
    """`report` is described in docs/report.md; its `kind` is that of the recipe."""

    verdict: Verdict
    report: Report
    hashes: dict[str, HashedFile] = field(default_factory=dict)  # of large files of staging, by relative path
    revisions: dict[str, Report] = field(default_factory=dict)  # reports of further points, by their folder


class Engine(Protocol):
    """The engine as the domain sees it. Real one: service/compression/jobs/engines.py."""

    def __call__(self, task: EngineTask[JobRecipe], progress: Progress) -> EngineOutcome: ...
