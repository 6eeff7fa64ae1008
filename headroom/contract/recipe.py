"""Every kind of job that can be asked for, told apart by `kind`; a body without one is a compress job."""

from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Tag, TypeAdapter

from headroom.contract.analyze import AnalyzeRecipe
from headroom.contract.compare import CompareRecipe
from headroom.contract.compress import CompressRecipe
from headroom.contract.dynamics import DynamicsRecipe
from headroom.contract.steer import SteerRecipe


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
