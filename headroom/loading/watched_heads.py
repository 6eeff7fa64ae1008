"""What a drift monitor asks of a head: its logits if it read everything, what it reads now, and to read more.

A sliced head of version 1 reads more columns. A head in planes rescores more rows while that is cheap, then reads more
bits, then the columns that its preview left out; at 8 bits of all columns it gives what it is measured against.
"""

from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from headroom.errors import InvalidArgument
from headroom.loading.column_prefix import (
    PrefixReading,
    embedding_with_rest,
    kept_columns,
    largest_kept_columns,
    set_kept_columns,
    sliced_head_of,
)
from headroom.loading.head import SlicedHead
from headroom.loading.head_settings import head_setting, set_head
from headroom.loading.plane_codes import PREVIEW_BITS
from headroom.loading.planes_head import PlanesHead
from headroom.loading.products.plane_products import Reading, by_blocks

FEWEST_RESCORED, MOST_RESCORED = 256, 4096  # what raising starts with; beyond, finding the rows costs more than bits
SHARE_RESCORED = 16  # at most one row in so many


class WatchedHead(Protocol):
    """One head of a loaded model, beside a fuller one that it is compared to."""

    @property
    def module(self) -> nn.Module: ...
    @property
    def hidden_size(self) -> int: ...

    def full_logits(self, hidden: Tensor) -> Tensor:
        """(positions, hidden) -> (positions, vocab) of the head that reads everything."""

    def columns(self) -> int:
        """How many columns the head reads now."""

    def reads(self) -> str:
        """What the head reads now, in words."""

    def can_read_more(self) -> bool: ...

    def read_more(self) -> None:
        """Have the head read a step more; nothing where there is no more."""


class WatchedSlicedHead:
    """A sliced head beside all columns, which a shared input table holds, or beside the original matrix."""

    def __init__(self, model: Any, full_weight: Tensor | None) -> None:
        self._model = model
        self.module: SlicedHead = sliced_head_of(model)
        self.hidden_size = self.module.in_features
        self._full = _by_weight(self.module, full_weight) if full_weight is not None else self._by_table()

    def full_logits(self, hidden: Tensor) -> Tensor:
        return self._full(hidden)

    def columns(self) -> int:
        return kept_columns(self._model)

    def reads(self) -> str:
        return f"{self.columns()} of {self.hidden_size} columns"

    def can_read_more(self) -> bool:
        return self.columns() < largest_kept_columns(self._model)

    def read_more(self) -> None:
        """Have the head read an eighth of the columns more."""
        most, now = largest_kept_columns(self._model), self.columns()
        if now < most:
            set_kept_columns(self._model, min(most, now + -(-most // 8)))

    def _by_table(self) -> PrefixReading:
        embedding = embedding_with_rest(self._model, self.module)
        if embedding is None or not self.module.nested:
            raise InvalidArgument(
                "The columns that were removed are not in this checkpoint; give the original lm_head.weight as "
                "full_weight."
            )
        return PrefixReading(self.module, embedding, self.module.in_features)


class WatchedPlanesHead:
    """A head in planes beside all 8 bits that are stored, or beside the original matrix."""

    def __init__(self, model: Any, head: PlanesHead, full_weight: Tensor | None) -> None:
        self._model = model
        self.module = head
        self.hidden_size = head.in_features
        self._full = self._all_bits if full_weight is None else _by_weight(head, full_weight)

    def full_logits(self, hidden: Tensor) -> Tensor:
        return self._full(hidden)

    def columns(self) -> int:
        return self.module.preview_columns

    def reads(self) -> str:
        return str(head_setting(self._model))

    def can_read_more(self) -> bool:
        head = self.module
        return head.bits < max(PREVIEW_BITS) or head.preview_columns < head.columns

    def read_more(self) -> None:
        head = self.module
        if head.rescored < self._most_rescored():
            rescored = min(self._most_rescored(), max(FEWEST_RESCORED, 2 * head.rescored))
            set_head(self._model, rescored=rescored)
        elif head.bits < max(PREVIEW_BITS):
            set_head(self._model, bits=min(bits for bits in PREVIEW_BITS if bits > head.bits))
        else:
            set_head(self._model, columns=head.columns)

    def _most_rescored(self) -> int:
        return min(MOST_RESCORED, self.module.out_features // SHARE_RESCORED)

    def _all_bits(self, hidden: Tensor) -> Tensor:
        head = self.module
        x = F.linear(hidden.float(), head.table.basis.float())
        logits = by_blocks(x, head.table, Reading(8, head.columns))
        return logits if head.bias is None else logits + head.bias


def watched_head(model: Any, full_weight: Tensor | None) -> WatchedHead:
    """InvalidArgument for a head that cannot be watched, or whose full form nothing tells."""
    head = model.get_output_embeddings()
    if isinstance(head, PlanesHead):
        return WatchedPlanesHead(model, head, full_weight)
    return WatchedSlicedHead(model, full_weight)


def _by_weight(head: SlicedHead | PlanesHead, full_weight: Tensor) -> Any:
    if full_weight.shape != (head.out_features, head.in_features):
        raise InvalidArgument(
            f"The full weight has shape {tuple(full_weight.shape)}, this head is ({head.out_features}, "
            f"{head.in_features})."
        )
    if isinstance(head, PlanesHead):  # its bias is the model's own
        return lambda hidden: F.linear(hidden, full_weight.to(hidden), head.bias)
    if head.bias is not None and not hasattr(head, "mean_hidden"):
        raise InvalidArgument("This head has a bias of its own that the full weight alone does not tell.")
    return lambda hidden: F.linear(hidden, full_weight.to(hidden))
