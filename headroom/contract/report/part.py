"""What every part of a report is: a frozen record, strict where it is made, tolerant where it is read.

A field that a later version adds is kept as it came; one that an earlier version did not write has a default. NaN and
infinities are null: JSON has no word for them.
"""

import math
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measured: TypeAlias = Annotated[float | None, BeforeValidator(_finite)]  # null: not measured, or no finite number


class ReportPart(BaseModel):
    """Base of all parts, and of the reports themselves."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)
