"""ChainedModels: the first source that has a model gives it. Local models come first, then the hub, if one is set."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from service.adapters.remote.hub_models import HubModels
from service.adapters.remote.local_models import LocalModels
from service.foundation.errors import HubUnavailable, ModelNotFound
from service.foundation.settings import Settings
from service.ports.models import FoundModel, LocalModel, ModelSource

Found = TypeVar("Found")


class ChainedModels:
    """ports.ModelSource over others, in order. Only ModelNotFound goes on to the next; any other error is final."""

    def __init__(self, sources: Sequence[ModelSource]) -> None:
        self._sources = sources

    def local_ids(self) -> list[str]:
        return sorted({model_id for source in self._sources for model_id in source.local_ids()})

    def exists(self, model_id: str, revision: str | None) -> None:
        self._first(lambda source: source.exists(model_id, revision))

    def inspect(self, model_id: str, revision: str | None) -> FoundModel:
        return self._first(lambda source: source.inspect(model_id, revision))

    def fetch(self, model_id: str, revision: str | None, progress: Callable[[float], None]) -> LocalModel:
        return self._first(lambda source: source.fetch(model_id, revision, progress))

    def _first(self, ask: Callable[[ModelSource], Found]) -> Found:
        reasons = []
        for source in self._sources:
            try:
                return ask(source)
            except ModelNotFound as error:
                reasons.append(error.message)
            except HubUnavailable as error:  # the reader should know that it was looked for here first
                raise HubUnavailable("; ".join([*reasons, error.message])) from error
        raise ModelNotFound("; ".join(reasons) or "no source of models is set")


def open_models(settings: Settings) -> ChainedModels:
    """The sources that the settings name. Connects to nothing yet."""
    sources: list[ModelSource] = [LocalModels(settings.local_models_dir, settings.follow_model_links)]
    if settings.hub_endpoint:
        cache_dir = settings.hub_cache_dir
        sources.append(HubModels(settings.hub_endpoint, settings.hub_token, cache_dir, settings.max_model_bytes))
    return ChainedModels(sources)
