"""Sliced heads whose columns are integers of 8 or 4 bits, as users run them. Needs torch; no transformers, no files.

logits = columns @ (basis @ h) + bias, where `columns` stands for integers times scales. torch's weight-only products
read the integers on a CPU, products/gpu_products.py's on a GPU; else a block of rows is widened at a time. Where a wide
copy of all rows is quicker on a CPU, as products/product_choice.py measures once for a number of positions, it is kept.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headroom.loading.products.product_choice import (
    BLOCKS,
    COPY,
    KERNEL,
    HeadProducts,
    ProductChoice,
    Ways,
    rows_measured,
    state_of,
)

ROWS_AT_ONCE = 2048  # of the head: widened, they stay in the cache
ROWS_AT_ONCE_ON_GPU = 32_768  # it wants large products
GROUP = 32  # columns that share a scale in a head of 4 bits; torch's product knows 32, 64, 128 and 256
OFFSET = 8  # four bits hold value + 8, of values from -8 to 7
KERNEL_ROWS = 16  # torch's 4-bit product wants a multiple of them
COLUMNS_OF_INT8_KERNEL = 16  # its 8-bit one, of these


class RoundedHead(nn.Module):
    """An lm_head of integers, as far as 8 and 4 bits are alike. Shapes: basis (kept, hidden); bias (vocab,) or none."""

    positions_unmeasured: int  # up to which torch's product of integers is taken where nothing may be measured

    def __init__(self, hidden_size: int, vocab_size: int, kept: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features = hidden_size
        self.out_features = vocab_size
        self.basis = nn.Parameter(torch.empty(kept, hidden_size), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(vocab_size), requires_grad=False) if bias else None
        self.choice = ProductChoice()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., hidden) -> logits (..., vocab)."""
        h = hidden_states.reshape(-1, self.in_features)
        way = self._way(h)
        if way == COPY and self._copies_dense():
            logits = F.linear(h, self.choice.copy(h.dtype, lambda: self.dense_weight().to(h.dtype)))
        else:
            x = F.linear(h, self.basis)
            logits = F.linear(x, self.choice.copy(x.dtype, self._wide)) if way == COPY else self._logits(x, way)
        if self.bias is not None:
            logits += self.bias
        return logits.view(*hidden_states.shape[:-1], self.out_features)

    @contextmanager
    def answering_once(self) -> Iterator[None]:
        """A context in which nothing is measured for speed."""
        with self.choice.unmeasured():
            yield

    @property
    def products(self) -> HeadProducts:
        """How the logits were computed, as far as it was measured."""
        return self.choice.described(self._kernel_nbytes())

    def dense_weight(self) -> Tensor:
        """The (vocab, hidden) matrix of the same function: rank `kept`, computed in float32, in the basis' dtype."""
        basis = self.basis.float()
        blocks = [(self._rows(rows, torch.float32) @ basis).to(self.basis.dtype) for rows in self._blocks()]
        return torch.cat(blocks)

    def columns(self) -> Tensor:
        """(vocab, kept) float32: what the integers stand for."""
        return torch.cat([self._rows(rows, torch.float32) for rows in self._blocks()])

    def _way(self, h: Tensor) -> str:
        if h.device.type != "cpu":
            return BLOCKS
        self.choice.watch(*self._integers(), self.basis)
        unmeasured = KERNEL if self._has_kernel(h) and h.shape[0] <= self.positions_unmeasured else BLOCKS
        return self.choice.way(h, self._entries(), unmeasured, lambda: self._ways(h))

    def _ways(self, h: Tensor) -> Ways:
        """On the first rows. The product with the basis comes to all but a dense copy."""
        wide = self.in_features if self._copies_dense() else self.basis.shape[0]
        rows = rows_measured(self.out_features, wide, h.dtype)
        x = F.linear(h, self.basis)
        ways: dict[str, Callable[[], object]] = {BLOCKS: lambda: self._by_blocks(x, rows)}
        if self._has_kernel(h):
            ways[KERNEL] = self._kernel_on(x, rows)
        if self.choice.copy_allowed:
            ways[COPY] = partial(F.linear, h if self._copies_dense() else x, h.new_ones(rows, wide))
        return ways

    def _has_kernel(self, h: Tensor) -> bool:
        """In float32 torch's products of integers are slower than wide rows."""
        return h.dtype == torch.bfloat16

    def _copies_dense(self) -> bool:
        """Whether a wide copy is of the whole matrix: it spares the product with the basis, and has no more entries."""
        kept = self.basis.shape[0]
        return self.out_features * self.in_features <= kept * (self.out_features + self.in_features)

    def _wide(self) -> Tensor:
        return torch.cat([self._rows(rows, self.basis.dtype) for rows in self._blocks()])

    def _entries(self) -> int:
        return self.out_features * self.basis.shape[0]

    def _logits(self, x: Tensor, way: str) -> Tensor:
        """(positions, kept) -> (positions, vocab)."""
        return self._kernel_on(x, self.out_features)() if way == KERNEL else self._by_blocks(x, self.out_features)

    def _by_blocks(self, x: Tensor, rows: int) -> Tensor:
        """(positions, kept) -> (positions, rows): of the first rows, a block of them widened at a time."""
        logits = x.new_empty(x.shape[0], rows)
        for block in self._blocks(rows):
            logits[:, block] = F.linear(x, self._rows(block, x.dtype))
        return logits

    def _kernel_on(self, x: Tensor, rows: int) -> Callable[[], Tensor]:
        """torch's product of x and the first rows of integers."""
        raise NotImplementedError

    def _kernel_nbytes(self) -> int:
        """Of what is kept for it."""
        return 0

    def _integers(self) -> tuple[Tensor, Tensor]:
        """The stored numbers and their scales."""
        raise NotImplementedError

    def _rows(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """(rows, kept): those rows of the head as numbers."""
        raise NotImplementedError

    def _blocks(self, stop: int | None = None) -> list[slice]:
        step = ROWS_AT_ONCE if self.basis.device.type == "cpu" else ROWS_AT_ONCE_ON_GPU
        stop = self.out_features if stop is None else stop
        return [slice(start, min(start + step, stop)) for start in range(0, stop, step)]


class QuantizedHead(RoundedHead):
    """An lm_head of 8 bits. Shapes: quantized (vocab, kept) int8; scale (vocab,), the bits of float32 numbers."""

    positions_unmeasured = 2  # torch's 8-bit product handles one position after another

    quantized: Tensor
    scale: Tensor

    def __init__(self, hidden_size: int, vocab_size: int, kept: int, *, bias: bool) -> None:
        super().__init__(hidden_size, vocab_size, kept, bias=bias)
        # As integers they stay what they are when a model is cast to 16 bits.
        self.register_buffer("quantized", torch.empty(vocab_size, kept, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(vocab_size, dtype=torch.int32))

    def _logits(self, x: Tensor, way: str) -> Tensor:
        if products := _gpu_products_for(x):
            with suppress(products.OutOfResources):  # a smaller GPU than these blocks want: rows are widened instead
                found: Tensor = products.int8_product(x, self.quantized, self.scale.view(torch.float32))
                return found
        return super()._logits(x, way)

    def _by_blocks(self, x: Tensor, rows: int) -> Tensor:
        scale = self.scale.view(torch.float32).to(x.dtype)
        logits = x.new_empty(x.shape[0], rows)
        for block in self._blocks(rows):
            logits[:, block] = F.linear(x, self.quantized[block].to(x.dtype)) * scale[block]
        return logits

    def _has_kernel(self, h: Tensor) -> bool:
        """torch's 8-bit product reads sixteen columns at a time, beyond the last one too if there are not as many."""
        return super()._has_kernel(h) and self.basis.shape[0] % COLUMNS_OF_INT8_KERNEL == 0

    def _kernel_on(self, x: Tensor, rows: int) -> Callable[[], Tensor]:
        scale = self.scale[:rows].view(torch.float32).to(x.dtype)
        return partial(torch._weight_int8pack_mm, x, self.quantized[:rows], scale)

    def _integers(self) -> tuple[Tensor, Tensor]:
        return self.quantized, self.scale

    def _rows(self, rows: slice, dtype: torch.dtype) -> Tensor:
        return self.quantized[rows].to(dtype) * self.scale[rows].view(torch.float32)[:, None].to(dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kept={self.basis.shape[0]}, int8"


class PackedHead(RoundedHead):
    """An lm_head of 4 bits, two columns in a byte: packed (vocab, ceil(kept / 2)) uint8; group_scale (vocab, groups).

    `group_scale` holds the bits of bfloat16 numbers, one for each row and GROUP columns; they may be negative.
    """

    positions_unmeasured = 64  # torch's 4-bit product shares what it unpacks between positions

    packed: Tensor
    group_scale: Tensor

    def __init__(self, hidden_size: int, vocab_size: int, kept: int, *, bias: bool) -> None:
        super().__init__(hidden_size, vocab_size, kept, bias=bias)
        self.register_buffer("packed", torch.empty(vocab_size, -(-kept // 2), dtype=torch.uint8))
        self.register_buffer("group_scale", torch.empty(vocab_size, -(-kept // GROUP), dtype=torch.int16))
        self._arranged: tuple[Tensor, Tensor] | None = None
        self._arranged_from: list[tuple[int, int]] = []

    def _logits(self, x: Tensor, way: str) -> Tensor:
        if products := _gpu_products_for(x):
            with suppress(products.OutOfResources):
                found: Tensor = products.int4_product(x, self.packed, self.group_scale.view(torch.bfloat16))
                return found
        return super()._logits(x, way)

    def _kernel_on(self, x: Tensor, rows: int) -> Callable[[], Tensor]:
        packed, scales = self._for_kernel()
        if rows < self.out_features:
            packed, scales = packed[:rows], scales[:, :rows].contiguous()
        padded = F.pad(x, (0, -x.shape[1] % GROUP))
        return lambda: torch._weight_int4pack_mm_for_cpu(padded, packed, GROUP, scales)[:, :rows]

    def _kernel_nbytes(self) -> int:
        return 0 if self._arranged is None else sum(part.nbytes for part in self._arranged)

    def _integers(self) -> tuple[Tensor, Tensor]:
        return self.packed, self.group_scale

    def _rows(self, rows: slice, dtype: torch.dtype) -> Tensor:
        scale = self.group_scale[rows].view(torch.bfloat16).to(dtype)
        return scaled(unpack(self.packed[rows], self.basis.shape[0]), scale)

    def _for_kernel(self) -> tuple[Tensor, Tensor]:
        """The columns as this machine's product wants them: a second copy, made at first use and after a change.

        The order depends on the instructions of the CPU, so it is never stored.
        """
        held = [state_of(self.packed), state_of(self.group_scale)]
        if self._arranged is None or held != self._arranged_from:
            self._arranged = arranged(self.packed, self.group_scale, self.basis.shape[0])
            self._arranged_from = held
        return self._arranged

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kept={self.basis.shape[0]}, int4"


def _gpu_products_for(x: Tensor) -> ModuleType | None:
    """gpu_products.py for a few positions on a GPU, where it works."""
    if not x.is_cuda:
        return None
    products = _gpu_products(x.device)
    return products if products and x.shape[0] <= products.MOST_POSITIONS else None


@functools.cache
def _gpu_products(device: torch.device) -> ModuleType | None:
    """Triton compiles a little C at first use: not every machine that runs models has a compiler."""
    try:
        from headroom.loading.products import gpu_products

        ones = torch.ones(1, GROUP, device=device)
        gpu_products.int8_product(ones, ones.to(torch.int8), ones[0, :1])
    except Exception as error:  # whatever is missing: the products below need none of it
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"heads of integers run slowly on this GPU, Triton does not work here: {reason}", stacklevel=2)
        return None
    return gpu_products


def pack(integers: Tensor) -> Tensor:
    """(rows, kept) int8 in -8..7 -> (rows, ceil(kept / 2)) uint8: the even column of a pair in the low four bits."""
    nibbles = (F.pad(integers, (0, integers.shape[1] % 2)) + OFFSET).to(torch.uint8)
    return nibbles[:, ::2] | (nibbles[:, 1::2] << 4)


def unpack(packed: Tensor, kept: int) -> Tensor:
    """Undo `pack`: (rows, ceil(kept / 2)) uint8 -> (rows, kept) int8 in -8..7."""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1)[:, :kept]
    return nibbles.to(torch.int8) - OFFSET


def scaled(integers: Tensor, scale: Tensor) -> Tensor:
    """(rows, kept) integers times (rows, groups) scales of their columns, in the dtype of the scales."""
    kept = integers.shape[1]
    wide = F.pad(integers.to(scale.dtype), (0, -kept % GROUP)).view(integers.shape[0], -1, GROUP)
    return (wide * scale[..., None]).flatten(1)[:, :kept]


def arranged(packed: Tensor, scale: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Columns for torch's 4-bit product on a CPU, filled up with zeros, and their (groups, rows, 2) scale and zero.

    A block of rows is wide at a time.
    """
    rows = packed.shape[0] + -packed.shape[0] % KERNEL_ROWS
    blocks = []
    for start in range(0, rows, ROWS_AT_ONCE):
        integers = unpack(packed[start : start + ROWS_AT_ONCE], kept)
        padding = (0, -kept % GROUP, 0, min(ROWS_AT_ONCE, rows - start) - integers.shape[0])
        blocks.append(torch._convert_weight_to_int4pack_for_cpu(F.pad(integers, padding).int() + OFFSET, 1))
    scales = F.pad(scale.view(torch.bfloat16), (0, 0, 0, rows - packed.shape[0])).T
    return torch.cat(blocks), torch.stack([scales, torch.zeros_like(scales)], dim=2).contiguous()
