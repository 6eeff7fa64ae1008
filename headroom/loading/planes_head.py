"""A head in bit planes, and the input table that it shares, as users run them. Needs torch; no transformers, no files.

With x = basis @ h the head first takes a preview of all logits from the first `whole` columns and the upper bits of the
others, then computes the best `rescored` of each position again from all 8 bits. Every smaller setting reads the same
stored tensors. plane_codes.py says what the codes stand for; which product reads them is products/plane_products.py's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headroom.loading import plane_codes
from headroom.loading.products.plane_products import PlaneProducts, Reading
from headroom.loading.products.plane_rescoring import rescore
from headroom.loading.products.plane_table import codes_of, scales_of
from headroom.loading.products.product_choice import COPY, HeadProducts, ProductChoice


class PlanesTable(nn.Module):
    """Rows of a matrix in planes. Shapes: whole (vocab, c), high and low (vocab, ceil((n - c) / 2)), basis (n, hidden).

    scales (vocab, ceil(n / 32)) int16: the bits of bfloat16 numbers. unbasis (n, hidden): turns a row back, where the
    basis does not; row i of the matrix that the planes stand for is values[i] @ basis, or @ unbasis.
    """

    whole: Tensor
    high: Tensor
    low: Tensor
    scales: Tensor

    def __init__(
        self, hidden_size: int, vocab_size: int, columns: int, whole_columns: int, *, unbasis: bool = False
    ) -> None:
        super().__init__()
        rest = -(-(columns - whole_columns) // 2)
        self.columns = columns
        # As integers they stay what they are when a model is cast to 16 bits.
        self.register_buffer("whole", torch.empty(vocab_size, whole_columns, dtype=torch.uint8))
        self.register_buffer("high", torch.empty(vocab_size, rest, dtype=torch.uint8))
        self.register_buffer("low", torch.empty(vocab_size, rest, dtype=torch.uint8))
        self.register_buffer("scales", torch.empty(vocab_size, plane_codes.groups_of(columns), dtype=torch.int16))
        self.basis = nn.Parameter(torch.empty(columns, hidden_size), requires_grad=False)
        self.unbasis = nn.Parameter(torch.empty(columns, hidden_size), requires_grad=False) if unbasis else None

    def values_of(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """(rows, columns) of `dtype`, from all 8 bits."""
        return plane_codes.values(codes_of(self, rows), scales_of(self, rows), dtype)

    def turned_back(self, values: Tensor) -> Tensor:
        """(..., columns) -> (..., hidden): rows of the matrix from rows of values."""
        return values @ (self.basis if self.unbasis is None else self.unbasis).to(values.dtype)


class PlanesEmbedding(PlanesTable):
    """The input embedding of a tied model: one whole row of planes for a token, turned back. The head reads it too."""

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        whole_columns: int,
        *,
        unbasis: bool,
        scale: float,
        padding_idx: int | None,
    ) -> None:
        super().__init__(hidden_size, vocab_size, hidden_size, whole_columns, unbasis=unbasis)
        self.num_embeddings = vocab_size
        self.embedding_dim = hidden_size
        self.padding_idx = padding_idx
        self.scale = scale

    def forward(self, input_ids: Tensor) -> Tensor:
        """ids (...) -> embeddings (..., hidden)."""
        rows = self.turned_back(self.values_of(input_ids.reshape(-1), self.basis.dtype))
        if self.scale != 1.0:  # a scaled embedding rounds its scale to the table's dtype before it multiplies
            rows = rows * torch.tensor(self.scale, dtype=rows.dtype, device=rows.device)
        return rows.view(*input_ids.shape, self.embedding_dim)

    def dense_weight(self) -> Tensor:
        """The (vocab, hidden) table as an ordinary embedding would hold it, before any scale."""
        return dense_rows(self, None)

    @property
    def weight(self) -> Tensor:
        """The tensor that transformers ties and asks for a device; a head in planes takes nothing from it."""
        return self.whole

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, whole={self.whole.shape[1]}, planes"


class PlanesHead(PlanesTable):
    """The lm_head. Its settings may be changed at any time: bits of the preview, rows rescored, columns of the preview.

    table: the input embedding whose planes it reads, in a tied model; without one it holds planes of its own.
    mean_hidden (hidden,) int32, bits of float32, E[h] over the calibration text: repairs a preview of fewer columns.
    """

    mean_hidden: Tensor

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        columns: int,
        whole_columns: int,
        *,
        bits: int,
        rescored: int,
        bias: bool,
        preview_columns: int | None = None,
        has_mean: bool = False,
        table: PlanesEmbedding | None = None,
    ) -> None:
        if table is None:
            super().__init__(hidden_size, vocab_size, columns, whole_columns)
        else:
            nn.Module.__init__(self)
            self.columns = columns
        self._tied_to = None if table is None else (table,)  # a tuple hides it from state_dict
        self.in_features = hidden_size
        self.out_features = vocab_size
        self.bias = nn.Parameter(torch.empty(vocab_size), requires_grad=False) if bias else None
        if has_mean:
            self.register_buffer("mean_hidden", torch.empty(hidden_size, dtype=torch.int32))
        self.stored_setting = (bits, rescored, preview_columns or columns)
        self.bits, self.rescored, self.preview_columns = self.stored_setting
        self.repair: Tensor | None = None  # (vocab,) what the columns that a preview leaves out give on average
        self.reader = PlaneProducts()

    @property
    def table(self) -> PlanesTable:
        return self if self._tied_to is None else self._tied_to[0]

    @property
    def weight(self) -> Tensor:
        return self.table.whole

    @weight.setter
    def weight(self, value: Tensor) -> None:
        """transformers 4 ties by setting it; this head shares its table already."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., hidden) -> logits (..., vocab). Memory beside them: 8 MB (on a GPU 64), or a block of widened rows."""
        h = hidden_states.reshape(-1, self.in_features)
        reading = self.reading
        way = self.reader.way(self.table, h, reading)
        if way == COPY:
            logits = F.linear(h, self.choice.copy(h.dtype, lambda: self.dense_weight().to(h.dtype)))
            if self.bias is not None:
                logits += self.bias
        else:
            logits = self._previewed(h, reading, way)
        return logits.view(*hidden_states.shape[:-1], self.out_features)

    def _previewed(self, h: Tensor, reading: Reading, way: str) -> Tensor:
        """(positions, hidden) -> (positions, vocab): the preview, with the best rows written over it."""
        x = F.linear(h, self.table.basis.to(h.dtype))
        logits = self.reader.logits(self.table, x, reading, way)
        if self.repair is not None:
            logits += self.repair.to(logits)
        if self.bias is not None:
            logits += self.bias
        if reading.rescored and reading.is_preview(self.columns):
            rescore(x, self.table, logits, reading.rescored, self.bias)
        return logits

    def read(self, bits: int, rescored: int, columns: int) -> None:
        """Set what is read from now on. It must have been checked (head_settings.py)."""
        if columns != self.preview_columns:
            self.repair = None if columns == self.columns else self._mean_of_columns_from(columns)
        self.bits, self.rescored, self.preview_columns = bits, rescored, columns

    def prepare(self) -> None:
        """Make now what the first use would make: after loading, and before torch.compile captures the head."""
        self.repair = None if self.preview_columns == self.columns else self._mean_of_columns_from(self.preview_columns)
        self.reader.prepare(self.table, self.reading)

    @contextmanager
    def answering_once(self) -> Iterator[None]:
        """A context in which only a sequence's last position is answered, and nothing is measured for speed."""
        handle = self.register_forward_pre_hook(lambda head, inputs: (inputs[0][..., -1:, :],))
        try:
            with self.choice.unmeasured():
                yield
        finally:
            handle.remove()

    def dense_weight(self) -> Tensor:
        """The (vocab, hidden) matrix of all 8 bits, computed in float32, in the basis' dtype."""
        return dense_rows(self.table, self.table.basis)

    @property
    def choice(self) -> ProductChoice:
        return self.reader.choice

    @property
    def products(self) -> HeadProducts:
        """How the logits were computed, as far as it was measured."""
        return self.reader.described()

    @property
    def reading(self) -> Reading:
        return Reading(self.bits, self.preview_columns, min(self.rescored, self.out_features))

    @torch.no_grad()
    def _mean_of_columns_from(self, columns: int) -> Tensor | None:
        """(vocab,) float32: what the columns from `columns` on give for E[h]; None where it was not stored."""
        if not hasattr(self, "mean_hidden"):
            return None
        mean = self.table.basis.float()[columns:] @ self.mean_hidden.view(torch.float32)
        blocks = plane_codes.blocks_of(self.out_features, plane_codes.ROWS_AT_ONCE)
        return torch.cat([self.table.values_of(rows, torch.float32)[:, columns:] @ mean for rows in blocks])

    def _apply(self, *args: Any, **kwargs: Any) -> "PlanesHead":
        """Moved or cast: what was arranged for the old place is made anew."""
        self.reader.forget()
        moved: PlanesHead = super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self.repair is not None:
            self.repair = self.repair.to(self.table.whole.device)
        return moved

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, planes, bits={self.bits}, "
            f"rescored={self.rescored}, columns={self.preview_columns} of {self.columns}"
        )


class SamePlanes(nn.Module):
    """A PlanesEmbedding at another place of the model: the halves of an encoder-decoder read one table."""

    def __init__(self, table: PlanesEmbedding) -> None:
        super().__init__()
        self._table = (table,)

    @property
    def weight(self) -> Tensor:
        """The weight of the table it repeats."""
        return self._table[0].weight

    @weight.setter
    def weight(self, value: Tensor) -> None:
        """As PlanesHead's."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """ids (...) -> embeddings (..., hidden)."""
        embeddings: Tensor = self._table[0](input_ids)
        return embeddings


@torch.no_grad()
def dense_rows(table: PlanesTable, basis: Tensor | None) -> Tensor:
    """(vocab, hidden) of the basis' dtype, a block of rows in float32 at a time; basis None: as `turned_back`."""
    blocks = []
    for rows in plane_codes.blocks_of(table.whole.shape[0], plane_codes.ROWS_AT_ONCE):
        wide = table.values_of(rows, torch.float32)
        turned = table.turned_back(wide) if basis is None else wide @ basis.float()
        blocks.append(turned.to(table.basis.dtype))
    return torch.cat(blocks)
