"""Where models come from, as a Protocol: looked up, looked at, brought to a local folder. See docs/decisions/0009."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.models.model_files import ModelInspection


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine's disk, checked for safety."""

    id: str
    revision: str | None  # the hub's commit, when it came from one
    path: Path


@dataclass(frozen=True)
class FoundModel:
    """A model that was looked at, not fetched."""

    id: str
    revision: str | None
    inspection: ModelInspection


class ModelSource(Protocol):
    """Finds a model and brings it to a local folder."""

    def local_ids(self) -> list[str]:
        """Ids of the models that need no fetching."""

    def exists(self, model_id: str, revision: str | None) -> None:
        """Cheap look-up for submission: ModelNotFound, HubUnavailable, and what is plainly wrong with the model."""

    def inspect(self, model_id: str, revision: str | None) -> FoundModel:
        """What its headers say, for the dry run. Fetches no weights. Raises what `fetch` would."""

    def fetch(self, model_id: str, revision: str | None, progress: Callable[[float], None]) -> LocalModel:
        """ModelNotFound, HubUnavailable, UnsafeModel, CorruptCheckpoint, DiskFull."""
