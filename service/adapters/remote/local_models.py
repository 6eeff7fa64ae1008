"""LocalModels: models that lie in a folder of this machine, as root/<namespace>/<name>. Copies and changes nothing."""

from collections.abc import Callable
from pathlib import Path

from headroom.contract.job_recipe import MODEL_ID_PART
from service.foundation.errors import InvalidModelId, ModelNotFound
from service.models.model_files import inspect_model, refuse_outside_links
from service.ports.models import FoundModel, LocalModel

ALLOWED_BY = "the operator can allow such links: HEADROOM_FOLLOW_MODEL_LINKS=true"


class LocalModels:
    """ports.ModelSource over one folder.

    A revision is a folder inside the model's, as training leaves them (`checkpoint-500`); asked for any other, the
    model is another one. follow_links: a model, or files of one, may be links to any place: only where nobody writes
    into `root` who may not read all that this process can.
    """

    def __init__(self, root: Path, follow_links: bool = False) -> None:
        self._root = root
        self._follow_links = follow_links

    def local_ids(self) -> list[str]:
        found = (config.parent for config in self._root.glob("*/*/config.json"))
        return sorted(f"{path.parent.name}/{path.name}" for path in found if _is_id(f"{path.parent.name}/{path.name}"))

    def exists(self, model_id: str, revision: str | None) -> None:
        """Headers are read in milliseconds, so what is wrong with the model is told at once."""
        self.inspect(model_id, revision)

    def inspect(self, model_id: str, revision: str | None) -> FoundModel:
        folder = self._folder(model_id, revision)
        if not self._follow_links:
            refuse_outside_links(
                folder, self._root, "the operator can allow such links: HEADROOM_FOLLOW_MODEL_LINKS=true"
            )
        return FoundModel(model_id, revision, inspect_model(folder))

    def fetch(self, model_id: str, revision: str | None, progress: Callable[[float], None]) -> LocalModel:
        found = self.inspect(model_id, revision)
        progress(1.0)
        return LocalModel(model_id, revision, found.inspection.path)

    def _folder(self, model_id: str, revision: str | None) -> Path:
        if not _is_id(model_id):
            raise InvalidModelId(f"{model_id[:100]!r} is no model id; write 'namespace/name'")
        folder = self._root / model_id
        if not folder.is_dir():
            raise ModelNotFound(f"there is no local model {model_id}; GET /v1/models lists those that are here")
        if revision is None:
            return folder
        inside = folder / revision
        if not _is_inner(revision) or not inside.is_dir():
            raise ModelNotFound(
                f"the local model {model_id} holds no folder {revision[:100]!r}; leave the revision out"
            )
        return inside


def _is_id(model_id: str) -> bool:
    """Never a path to somewhere else: two plain parts, no '..'."""
    parts = model_id.split("/")
    return len(parts) == 2 and ".." not in model_id and all(MODEL_ID_PART.fullmatch(part) for part in parts)


def _is_inner(revision: str) -> bool:
    return ".." not in revision and all(MODEL_ID_PART.fullmatch(part) for part in revision.split("/"))
