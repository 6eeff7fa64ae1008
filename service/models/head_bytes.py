"""Bytes that a head reads for a position, from its shape alone: columns, scales, basis or order, bias.

The estimate and the search for a budget count with this; what is stored has just as many (SlicedFactors.head_nbytes).
"""

from dataclasses import dataclass

from headroom.contract.compress import HeadDtype

GROUP = (
    32  # columns that share a scale in 4 bits, as headroom/loading/quantized_head.py has it; no tensors are loaded here
)
ROW_SCALE, GROUP_SCALE, INDEX = 4, 2, 8  # bytes of a float32, of a bfloat16, of an int64


@dataclass(frozen=True)
class HeadShape:
    """A head of `kept` columns, and whether it has a bias and a general basis (integers always have one)."""

    vocab_size: int
    hidden_size: int
    item: int  # bytes of one number of the model's dtype
    bias: bool
    permutation: bool

    def nbytes(self, kept: int, head_dtype: HeadDtype) -> int:
        indexed = self.permutation and head_dtype == "source"
        mapping = INDEX * kept if indexed else self.item * kept * self.hidden_size
        bias = self.item * self.vocab_size if self.bias else 0
        return self.vocab_size * self._row(kept, head_dtype) + mapping + bias

    def _row(self, kept: int, head_dtype: HeadDtype) -> int:
        if head_dtype == "int8":
            return kept + ROW_SCALE
        if head_dtype == "int4":
            return -(-kept // 2) + GROUP_SCALE * -(-kept // GROUP)
        return self.item * kept
