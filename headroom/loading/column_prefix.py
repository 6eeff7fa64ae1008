"""Read fewer or more columns of a loaded sliced head, without a copy of it and without loading anything.

With T the triangle of the checkpoint and r the columns from k on, the basis of k columns is [1, -T_kr T_rr^-1] times
that of all columns that the checkpoint holds (docs/checkpoint-format.md). The mean repair is set anew for every k.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from headroom.errors import InvalidArgument
from headroom.loading.head import SlicedEmbedding, SlicedHead

ROWS_AT_ONCE = 8192


def kept_columns(model: Any) -> int:
    """How many columns the head of a loaded model reads now. InvalidArgument if it has no sliced head."""
    head = sliced_head_of(model)
    return head.weight.shape[1] if head.reading is None else head.reading.kept  # type: ignore[attr-defined]


def largest_kept_columns(model: Any) -> int:
    """How many columns the head can read: all where it shares the input table, else those that were stored."""
    head = sliced_head_of(model)
    return head.weight.shape[1] if embedding_with_rest(model, head) is None else head.in_features


def set_kept_columns(model: Any, kept: int) -> None:
    """Let the head of a loaded model read its first `kept` columns from now on, with the mean repair of that size.

    The weights stay where they are: a prefix is a view of them. Saving writes the number that was stored. Raises
    InvalidArgument for a number that the checkpoint does not hold, or a head that can only be read as it was stored.
    """
    head = sliced_head_of(model)
    stored, most = head.weight.shape[1], largest_kept_columns(model)
    if not 1 <= kept <= most:
        held = "the others were not stored" if most < head.in_features else "that is all of them"
        raise InvalidArgument(f"This head can read 1 to {most} columns, not {kept}; {held}.")
    if kept == stored:
        head.reading = None
        return
    if not head.nested:
        raise InvalidArgument(
            f"This checkpoint's head can only be read with the {stored} columns it was stored with: "
            "it was rounded or refined for that number."
        )
    head.reading = PrefixReading(head, embedding_with_rest(model, head), kept)


def sliced_head_of(model: Any) -> SlicedHead:
    """InvalidArgument unless the model was loaded from a headroom checkpoint."""
    head = model.get_output_embeddings()
    if not isinstance(head, SlicedHead):
        raise InvalidArgument(f"This model's output head is a {type(head).__name__}, not one that headroom sliced.")
    return head


class PrefixReading:
    """Logits from the first `kept` columns of a head; columns beyond those of `weight` come from the input table."""

    def __init__(self, head: SlicedHead, embedding: SlicedEmbedding | None, kept: int) -> None:
        self.kept = kept
        self._head = head
        self._embedding = embedding
        self._order: Tensor | None = None
        self._basis: Tensor | None = None
        if head.permutation:
            order = head.keep_columns if embedding is None else embedding.inverse_order.argsort()
            self._order = order[:kept]
        else:
            self._basis = basis_of(head, embedding, kept).to(head.weight)
        self._bias = head.bias if not hasattr(head, "mean_hidden") else self._repaired_bias()

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """(..., hidden) -> (..., vocab)."""
        return self._logits(self._coordinates(hidden_states), self._bias)

    def _coordinates(self, hidden_states: Tensor) -> Tensor:
        if self._order is not None:
            return hidden_states.index_select(-1, self._order)
        assert self._basis is not None
        return F.linear(hidden_states, self._basis.to(hidden_states))

    def _logits(self, columns: Tensor, bias: Tensor | None) -> Tensor:
        weight = self._head.weight
        stored = weight.shape[1]
        logits = F.linear(columns[..., :stored], weight[:, : self.kept], bias)
        if self.kept <= stored:
            return logits
        assert self._embedding is not None
        return logits + F.linear(columns[..., stored:], self._embedding.weight_rest[:, : self.kept - stored])

    @torch.no_grad()
    def _repaired_bias(self) -> Tensor:
        """b_k = b_stored + (what the stored head gives for E[h] without it) - (what this one does), in float32."""
        head = self._head
        assert head.bias is not None
        mean = head.mean_hidden.view(torch.float32).to(head.weight.device)
        stored_order = head.keep_columns if head.permutation else None
        before = mean[stored_order] if stored_order is not None else head.basis.float() @ mean
        after = self._coordinates(mean)
        stored, rest = head.weight.shape[1], self.kept - head.weight.shape[1]
        bias = head.bias.float().clone()
        for start in range(0, bias.shape[0], ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            weight = head.weight[rows].float()
            bias[rows] += weight @ before - weight[:, : self.kept] @ after[:stored]
            if rest > 0:
                assert self._embedding is not None
                bias[rows] -= self._embedding.weight_rest[rows, :rest].float() @ after[stored:]
        return bias.to(head.bias.dtype)


def basis_of(head: SlicedHead, embedding: SlicedEmbedding | None, kept: int) -> Tensor:
    """(kept, hidden) float32: maps a hidden state to the first `kept` columns of a head in a general basis."""
    triangle = head.triangle.view(torch.float32).double()
    full = head.basis.double() if embedding is None else embedding.rotation.double().T
    corner, beside = triangle[kept:, kept:], triangle[:kept, kept:]
    mixed = torch.linalg.solve_triangular(corner, beside, upper=True, left=False)
    basis: Tensor = full[:kept] - mixed @ full[kept:]
    return basis.float()


def embedding_with_rest(model: Any, head: SlicedHead) -> SlicedEmbedding | None:
    """The input embedding, if it holds the columns that the head does not read."""
    embedding = model.get_input_embeddings()
    is_shared = isinstance(embedding, SlicedEmbedding) and embedding.weight is head.weight
    return embedding if is_shared else None
