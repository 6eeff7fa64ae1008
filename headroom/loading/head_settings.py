"""Settings of a head in planes on a loaded model: all of them read the same stored tensors, so a change costs nothing.

For heads of format version 2; a sliced head of version 1 has set_kept_columns (column_prefix.py).
"""

from dataclasses import dataclass
from typing import Any

from headroom.errors import InvalidArgument
from headroom.loading.plane_codes import PREVIEW_BITS
from headroom.loading.planes_head import PlanesHead
from headroom.loading.products.product_choice import HeadProducts
from headroom.loading.quantized_head import RoundedHead


@dataclass(frozen=True)
class HeadSetting:
    """What a head in planes reads. str() says which logits are exact."""

    bits: int  # of the columns that are not whole, in the preview of all rows
    rescored: int  # rows of each position computed again from all 8 bits
    columns: int  # that the preview reads
    vocab_size: int
    stored_columns: int

    def __str__(self) -> str:
        if (self.bits == 8 and self.columns == self.stored_columns) or self.rescored >= self.vocab_size:
            return f"all {self.vocab_size} logits are exact to 8 bits"
        of = "" if self.columns == self.stored_columns else f" of {self.columns} columns"
        if not self.rescored:
            return f"all {self.vocab_size} logits are a preview of {self.bits} bits{of}"
        return (
            f"the best {self.rescored} logits of each position are exact to 8 bits, the others a preview of "
            f"{self.bits} bits{of}"
        )


def set_head(
    model: Any, *, bits: int | None = None, rescored: int | None = None, columns: int | None = None
) -> HeadSetting:
    """Let the head of a loaded model read more or less from now on; what is not given stays as it is.

    bits: 8 (the plain 8-bit head), 4, 3 or 2. rescored: 0 for none, at most the vocabulary. columns: that the preview
    reads, from the whole ones to all. Nothing is loaded; a copy that a CPU's product wants in its own order is made
    anew at the next use. Saving writes the settings that were stored. InvalidArgument for what this head cannot do.
    """
    head = planes_head_of(model)
    bits = head.bits if bits is None else bits
    rescored = head.rescored if rescored is None else rescored
    columns = head.preview_columns if columns is None else columns
    if bits not in PREVIEW_BITS:
        raise InvalidArgument(f"A head in planes reads 8, 4, 3 or 2 bits, not {bits}.")
    if not 0 <= rescored <= head.out_features:
        raise InvalidArgument(f"Of this head 0 to {head.out_features} rows can be rescored, not {rescored}.")
    least = max(1, head.table.whole.shape[1])
    if not least <= columns <= head.columns:
        raise InvalidArgument(f"A preview of this head reads {least} to {head.columns} columns, not {columns}.")
    head.read(bits, rescored, columns)
    return head_setting(model)


def head_setting(model: Any) -> HeadSetting:
    """What the head of a loaded model reads now."""
    head = planes_head_of(model)
    return HeadSetting(head.bits, head.rescored, head.preview_columns, head.out_features, head.columns)


def head_products(model: Any) -> HeadProducts:
    """How the head of a loaded model computes on a CPU, for each number of positions that it has had so far."""
    return _rounded_head_of(model).products


def set_wide_copy(model: Any, allowed: bool) -> HeadProducts:
    """Whether the head may keep a wide copy of all its rows where that is quicker; at first it may.

    A head in planes or of integers that is asked for many positions at once on a CPU can be slower than the head that
    it replaced. Where it measures so, once for a number of positions up to 64, it makes a wide copy, which takes as
    much memory as that head. False gives the copy back and takes the quickest way without one.
    """
    head = _rounded_head_of(model)
    head.choice.allow_copy(allowed)
    return head.products


def _rounded_head_of(model: Any) -> PlanesHead | RoundedHead:
    head = model.get_output_embeddings()
    if not isinstance(head, (PlanesHead, RoundedHead)):
        raise InvalidArgument(
            f"This model's output head is a {type(head).__name__}, neither in planes nor of integers."
        )
    return head


def planes_head_of(model: Any) -> PlanesHead:
    """InvalidArgument unless the model was loaded from a checkpoint with a head in planes."""
    head = model.get_output_embeddings()
    if not isinstance(head, PlanesHead):
        raise InvalidArgument(f"This model's output head is a {type(head).__name__}, not one in planes.")
    return head
