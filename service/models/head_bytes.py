"""Bytes of a head from its shape alone: what it reads for a position, and what it has in a checkpoint.

The estimate and the search for a budget count with this; what is stored has just as many, but for a few vectors and
the triangle of other sizes.
"""

from dataclasses import dataclass

from headroom.contract.compress import ColumnDtype

GROUP = (
    32  # columns that share a scale in 4 bits, as headroom/loading/quantized_head.py has it; no tensors are loaded here
)
ROW_SCALE, GROUP_SCALE, INDEX = 4, 2, 8  # bytes of a float32, of a bfloat16, of an int64
WHOLE_COLUMNS = 32  # of planes, where the recipe names no other number


@dataclass(frozen=True)
class HeadShape:
    """A head of `kept` columns, and whether it has a bias and a general basis (integers always have one).

    shared: the input table is the head's own, and stays so while columns keep the model's dtype.
    separate: the same table, but the head is to get one of its own.
    """

    vocab_size: int
    hidden_size: int
    item: int  # bytes of one number of the model's dtype
    bias: bool
    permutation: bool
    shared: bool = False
    separate: bool = False

    @property
    def table_nbytes(self) -> int:
        return self.item * self.vocab_size * self.hidden_size

    def nbytes(self, kept: int, head_dtype: ColumnDtype) -> int:
        """Bytes read for a position: columns, scales, basis or order, bias."""
        indexed = self.permutation and head_dtype == "source"
        mapping = INDEX * kept if indexed else self.item * kept * self.hidden_size
        bias = self.item * self.vocab_size if self.bias else 0
        return self.vocab_size * self._row(kept, head_dtype) + mapping + bias

    def stored_nbytes(self, kept: int, head_dtype: ColumnDtype) -> int:
        """Bytes in the checkpoint, with a table that the head shares or shared; an untied model's is not counted."""
        read = self.nbytes(kept, head_dtype)
        if self.shared and head_dtype == "source":
            turn = INDEX * self.hidden_size if self.permutation else self.item * self.hidden_size**2
            return read + (self.hidden_size - kept) * self.item * self.vocab_size + turn
        return read + (self.table_nbytes if self.shared or self.separate else 0)

    def planes_nbytes(self, bits: int, rescored: int, whole_columns: int | None = None) -> int:
        """Bytes read for a position of a head in planes: the preview, the rows computed again, and the rest."""
        wanted = WHOLE_COLUMNS if whole_columns is None else whole_columns
        whole = min(wanted, self.hidden_size // GROUP * GROUP)
        rest, scales = self.hidden_size - whole, GROUP_SCALE * -(-self.hidden_size // GROUP)
        preview = whole + (rest if bits == 8 else -(-rest // 2))
        again = 0 if bits == 8 else min(rescored, self.vocab_size) * (self.hidden_size + scales)
        bias = self.item * self.vocab_size if self.bias else 0
        return self.vocab_size * (preview + scales) + again + self.item * self.hidden_size**2 + bias

    def _row(self, kept: int, head_dtype: ColumnDtype) -> int:
        if head_dtype == "int8":
            return kept + ROW_SCALE
        if head_dtype == "int4":
            return -(-kept // 2) + GROUP_SCALE * -(-kept // GROUP)
        return self.item * kept
