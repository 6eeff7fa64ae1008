"""What every answer of the server is: a frozen record, made by the server and read by the client from its JSON.

The version is that of the routes, /v1. A field that a newer server adds is passed over, and a word that it adds (a
status, a phase) stays as it came.
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler

from headroom.errors import HeadroomError


class Answer(BaseModel):
    """Base of every answer. `model_validate` also takes the server's own objects, by their attributes."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """From JSON. HeadroomError: it is none that this version understands."""
        try:
            return cls.model_validate(told)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(str(step) for step in problem["loc"])
            raise HeadroomError(
                f"The server's answer cannot be read ({where}: {problem['msg']}); a newer headroom may understand it."
            ) from error


def known_or_as_told(value: Any, known: ValidatorFunctionWrapHandler) -> Any:
    """A word of this version, or the string that a newer server says."""
    try:
        return known(value)
    except ValidationError:
        if isinstance(value, str):
            return value
        raise
