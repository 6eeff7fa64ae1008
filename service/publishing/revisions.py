"""Further points of a job's curve among its files: a folder and a name for each. No HTTP, no tensors."""

from collections.abc import Mapping
from typing import TypeVar

from headroom.contract.compress import CompressRecipe
from service.models.column_counts import checked_kept_columns

REVISIONS = "revisions"

Value = TypeVar("Value")


def revision_sizes(recipe: CompressRecipe, hidden_size: int) -> dict[int, float]:
    """Kept columns of the points that were asked for, and the ratio of each. RatioTooSmall."""
    options = recipe.options
    ratios = sorted(options.publish_ratios)
    return {checked_kept_columns(hidden_size, ratio, options.column_multiple): ratio for ratio in ratios}


def revision_name(kept: int) -> str:
    """The name of a point: `k448` keeps 448 columns."""
    return f"k{kept}"


def revision_folder(kept: int) -> str:
    """Where a job has its files, relative."""
    return f"{REVISIONS}/{revision_name(kept)}"


def of_revision(files: Mapping[str, Value], folder: str) -> dict[str, Value]:
    """Those of the files of a job that are in the folder of a point, by their paths in it; '': of the chosen one."""
    if folder:
        return {path.removeprefix(f"{folder}/"): file for path, file in files.items() if path.startswith(f"{folder}/")}
    return {path: file for path, file in files.items() if not path.startswith(f"{REVISIONS}/")}
