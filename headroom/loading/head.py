"""The modules of a checkpoint with a sliced head, exactly as users run them. Needs torch; no transformers, no files.

With W (vocab_size, hidden_size) the original lm_head, the sliced one keeps k columns of W written in another basis:
logits = weight @ (basis @ h) + bias, or weight @ h[keep_columns] + bias where the basis is a permutation.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REMOVED_NAME = "restore.safetensors"  # what only going back needs; no loader reads it
FORMAT_VERSION = 1  # of the checkpoint: who writes one and who loads one must mean the same tensors
# Share of the spread of the fingerprint's logits by which they may differ, beside the rounding of the dtype that is
# loaded. Another dtype moves them by a few percent of the spread, a head initialised at random by fifty and more.
FINGERPRINT_TOLERANCE = 0.15


def fingerprint_inputs(model: nn.Module, input_ids: Tensor) -> dict[str, Tensor]:
    """Inputs that a fingerprint is taken with: (1, tokens) ids, given to the decoder too where there is one."""
    is_pair = getattr(model.config, "is_encoder_decoder", False)
    return {"input_ids": input_ids} | ({"decoder_input_ids": input_ids} if is_pair else {})


def require_fingerprint(found: Tensor, stored: list[float], dtype: torch.dtype) -> None:
    """ValueError unless the logits `found`, computed in `dtype`, are those that were stored."""
    expected = torch.tensor(stored)
    rounding = 4 * torch.finfo(dtype).eps * float(expected.abs().max())
    allowed = FINGERPRINT_TOLERANCE * float(expected.max() - expected.min()) + rounding
    difference = float((found - expected).abs().max())
    if not difference <= allowed:
        raise ValueError(
            f"this headroom checkpoint does not reproduce its fingerprint (logits off by {difference:.2g}, "
            f"{allowed:.2g} allowed): its files are damaged or were replaced, or weights were re-initialised on loading"
        )


Logits: TypeAlias = Callable[[Tensor], Tensor]  # hidden states -> logits, with another number of columns


class SlicedHead(nn.Module):
    """An lm_head with `kept` columns. Shapes: weight (vocab, kept); basis (kept, hidden) or keep_columns (kept,)."""

    basis: Tensor
    keep_columns: Tensor
    triangle: Tensor
    mean_hidden: Tensor

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        kept: int,
        *,
        permutation: bool,
        bias: bool,
        held: int | None = None,
        mean_repaired: bool = False,
    ) -> None:
        """held: columns that the checkpoint holds, where it says how to read another number of them than `kept`."""
        super().__init__()
        self.nested = held is not None
        self.reading: Logits | None = None  # None: as stored
        self.in_features = hidden_size
        self.out_features = vocab_size
        self.permutation = permutation
        self.weight = nn.Parameter(torch.empty(vocab_size, kept), requires_grad=False)
        if permutation:
            self.register_buffer("keep_columns", torch.empty(kept, dtype=torch.int64))
        else:
            self.basis = nn.Parameter(torch.empty(kept, hidden_size), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(vocab_size), requires_grad=False) if bias else None
        # The bits of float32 numbers: as integers they stay what they are when a model is cast to 16 bits.
        if held is not None and not permutation:
            self.register_buffer("triangle", torch.empty(held, held, dtype=torch.int32))
        if mean_repaired:
            self.register_buffer("mean_hidden", torch.empty(hidden_size, dtype=torch.int32))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., hidden) -> logits (..., vocab)."""
        if self.reading is not None:
            return self.reading(hidden_states)
        if self.permutation:
            columns = hidden_states.index_select(-1, self.keep_columns)
        else:
            columns = F.linear(hidden_states, self.basis)
        return F.linear(columns, self.weight, self.bias)

    def dense_weight(self) -> Tensor:
        """The (vocab, hidden) matrix of the same function: rank `kept`, computed in float32, in the stored dtype."""
        if self.permutation:
            dense = self.weight.new_zeros(self.out_features, self.in_features)
            dense[:, self.keep_columns] = self.weight
            return dense
        return (self.weight.float() @ self.basis.float()).to(self.weight.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kept={self.weight.shape[1]}"


class SlicedEmbedding(nn.Module):
    """The input embedding of a tied model whose table is stored in two column groups.

    Row i of the table is [weight[i], weight_rest[i]] in the head's basis; the embedding turns it back:
    times rotation' (rotation: (hidden, hidden), orthogonal), or by `inverse_order` for a permutation.
    `weight` (vocab, kept) is the very tensor that the head reads.
    """

    rotation: Tensor
    inverse_order: Tensor

    def __init__(
        self, vocab_size: int, hidden_size: int, kept: int, *, permutation: bool, scale: float, padding_idx: int | None
    ) -> None:
        super().__init__()
        self.num_embeddings = vocab_size
        self.embedding_dim = hidden_size
        self.padding_idx = padding_idx
        self.permutation = permutation
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(vocab_size, kept), requires_grad=False)
        self.weight_rest = nn.Parameter(torch.empty(vocab_size, hidden_size - kept), requires_grad=False)
        if permutation:
            self.register_buffer("inverse_order", torch.empty(hidden_size, dtype=torch.int64))
        else:
            self.rotation = nn.Parameter(torch.empty(hidden_size, hidden_size), requires_grad=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """ids (...) -> embeddings (..., hidden)."""
        return self._scaled(
            self._turned_back(F.embedding(input_ids, self.weight), F.embedding(input_ids, self.weight_rest))
        )

    def dense_weight(self) -> Tensor:
        """The (vocab, hidden) table as an ordinary embedding would hold it, before any scale."""
        return self._turned_back(self.weight, self.weight_rest)

    def _turned_back(self, kept: Tensor, rest: Tensor) -> Tensor:
        rows = torch.cat([kept, rest], dim=-1)
        return rows.index_select(-1, self.inverse_order) if self.permutation else F.linear(rows, self.rotation)

    def _scaled(self, rows: Tensor) -> Tensor:
        # A scaled embedding rounds its scale to the table's dtype before it multiplies; so must this one.
        return rows if self.scale == 1.0 else rows * torch.tensor(self.scale, dtype=rows.dtype, device=rows.device)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, kept={self.weight.shape[1]}"


class SameEmbedding(nn.Module):
    """A SlicedEmbedding at another place of the model: the halves of an encoder-decoder read one table.

    Only `weight` has a second name, which transformers ties and leaves out of files; the rest is reached, not owned.
    """

    def __init__(self, table: SlicedEmbedding) -> None:
        super().__init__()
        self.weight = table.weight
        self._table = (table,)  # a tuple hides it from state_dict

    def forward(self, input_ids: Tensor) -> Tensor:
        """ids (...) -> embeddings (..., hidden)."""
        embeddings: Tensor = self._table[0](input_ids)
        return embeddings
