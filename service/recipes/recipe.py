"""Every kind of job that can be asked for, told apart by `kind`; a body without one is a compress job."""

from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Tag, TypeAdapter

from service.recipes.analyze import AnalyzeRecipe
from service.recipes.compare import CompareRecipe
from service.recipes.compress import CompressRecipe
from service.recipes.dynamics import DynamicsRecipe
from service.recipes.steer import SteerRecipe


def _kind(data: Any) -> Any:
    return data.get("kind", "compress") if isinstance(data, dict) else getattr(data, "kind", None)


Recipe: TypeAlias = Annotated[
    Annotated[CompressRecipe, Tag("compress")]
    | Annotated[AnalyzeRecipe, Tag("analyze")]
    | Annotated[SteerRecipe, Tag("steer")]
    | Annotated[CompareRecipe, Tag("compare")]
    | Annotated[DynamicsRecipe, Tag("dynamics")],
    Discriminator(_kind),
]

RECIPES: TypeAdapter[Recipe] = TypeAdapter(Recipe)
