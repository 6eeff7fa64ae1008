"""A sliced head whose columns are 8-bit integers, as users run it. Needs torch; no transformers, no files.

logits = scale * (quantized @ (basis @ h)) + bias, a scale for each row. The whole head is never written out in a
floating type: torch's 8-bit product reads the integers as they are, elsewhere a block of rows is widened at a time.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS_AT_ONCE = 2048  # of the head: widened, they stay in the cache
# torch's 8-bit product reads the fewest bytes but handles one position after another (make bench NAME=head).
POSITIONS_OF_KERNEL = 2


class QuantizedHead(nn.Module):
    """Shapes: quantized (vocab, kept) int8; basis (kept, hidden); scale (vocab,), the bits of float32 numbers."""

    quantized: Tensor
    scale: Tensor

    def __init__(self, hidden_size: int, vocab_size: int, kept: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features = hidden_size
        self.out_features = vocab_size
        self.basis = nn.Parameter(torch.empty(kept, hidden_size), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(vocab_size), requires_grad=False) if bias else None
        # As integers they stay what they are when a model is cast to 16 bits.
        self.register_buffer("quantized", torch.empty(vocab_size, kept, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(vocab_size, dtype=torch.int32))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., hidden) -> logits (..., vocab)."""
        columns = F.linear(hidden_states, self.basis)
        x = columns.reshape(-1, columns.shape[-1])
        scale = self.scale.view(torch.float32).to(x.dtype)
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.shape[0] <= POSITIONS_OF_KERNEL:
            logits = torch._weight_int8pack_mm(x, self.quantized, scale)
        else:
            logits = x.new_empty(x.shape[0], self.out_features)
            for start in range(0, self.out_features, ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                logits[:, rows] = F.linear(x, self.quantized[rows].to(x.dtype)) * scale[rows]
        if self.bias is not None:
            logits += self.bias
        return logits.view(*columns.shape[:-1], self.out_features)

    def dense_weight(self) -> Tensor:
        """The (vocab, hidden) matrix of the same function: rank `kept`, computed in float32, in the basis' dtype."""
        columns = self.quantized.float() * self.scale.view(torch.float32)[:, None]
        return (columns @ self.basis.float()).to(self.basis.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kept={self.basis.shape[0]}, int8"
