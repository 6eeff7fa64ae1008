"""A head in planes, and the input table that it shares, as an ONNX graph computes them. Writes no files.

The preview is onnxruntime's product of 4-bit weights (MatMulNBits of its domain com.microsoft), which reads the planes
packed as they are stored; TopK, Gather and ScatterElements rescore. It reads (q - 8) scale, where planes mean
(q - 8 + shift) scale: the shift is one for a whole group, so a narrow product with sums of x over groups adds it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headroom.loading import plane_codes
from headroom.loading.plane_codes import GROUP
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead, PlanesTable
from headroom.loading.products.plane_products import Reading, columns_in_two_planes, in_nibbles
from headroom.loading.products.plane_table import codes_of, scales_of


class GraphTable(nn.Module):
    """The planes of a table: nibbles that a preview reads, and what is left of each code.

    packed (vocab, groups, GROUP / 2) uint8 and scales (vocab, groups) float32, groups being those of the preview;
    rest (vocab, columns not whole, or half as many bytes of two nibbles) uint8, steps (vocab, groups of all columns).
    """

    packed: Tensor
    scales: Tensor
    shifts: Tensor
    rest: Tensor
    centres: Tensor
    steps: Tensor

    def __init__(self, table: PlanesTable, reading: Reading) -> None:
        super().__init__()
        self.columns, self.whole = table.columns, table.whole.shape[1]
        self.read, self.twice = reading.columns, columns_in_two_planes(self.whole, reading)
        # Without columns that are not whole a preview leaves nothing out.
        self.is_exact = not reading.is_preview(table.columns) or self.whole == self.read == table.columns
        self.halves_rest = reading.bits == 4 and reading.columns == table.columns
        shared = 1 << (8 - reading.bits)  # codes that a preview does not tell apart
        blocks = [self._block(table, reading, rows, shared) for rows in _blocks(table)]
        first_groups = plane_codes.groups_of(self.twice)
        groups = blocks[0][1].shape[1]
        shifts = torch.full((groups,), shared / 32)
        shifts[: 2 * first_groups] = 0.5
        centres = torch.full((table.columns - self.whole,), (shared - 1) / 2)
        centres[max(0, reading.columns - self.whole) :] = plane_codes.CENTRE
        for name, tensor in (
            ("packed", torch.cat([block[0] for block in blocks])),
            ("scales", torch.cat([block[1] for block in blocks])),
            ("shifts", shifts),
            ("rest", torch.cat([block[2] for block in blocks])),
            ("centres", centres),
            ("steps", scales_of(table, slice(None)).float()),
        ):
            self.register_buffer(name, tensor)

    def _block(self, table: PlanesTable, reading: Reading, rows: slice, shared: int) -> tuple[Tensor, Tensor, Tensor]:
        codes = codes_of(table, rows)
        nibbles, factors = in_nibbles(codes[:, : self.read], scales_of(table, rows), self.twice, reading.bits)
        packed = plane_codes.pack_nibbles(nibbles).unflatten(1, (-1, GROUP // 2))
        read = max(0, self.read - self.whole)
        rest = codes[:, self.whole :].clone()
        rest[:, :read] &= shared - 1
        return packed, factors[..., 0].T.float(), plane_codes.pack_nibbles(rest) if self.halves_rest else rest

    def preview(self, x: Tensor) -> Tensor:
        """(positions, columns) -> (positions, vocab)."""
        first = _filled(x[:, : self.twice])
        operand = _filled(torch.cat([first, first, x[:, self.twice : self.read]], dim=1))
        product = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            (operand, self.packed, self.scales.flatten()),
            {"K": operand.shape[1], "N": self.packed.shape[0], "bits": 4, "block_size": GROUP},
            dtype=torch.float32,
            shape=(operand.shape[0], self.packed.shape[0]),
            version=1,
        )
        sums = operand.unflatten(1, (-1, GROUP)).sum(2)
        shifted: Tensor = product + (self.scales @ (sums * self.shifts).T).T
        return shifted

    def values(self, rows: Tensor) -> Tensor:
        """(n,) rows -> (n, columns) float32, of all 8 bits."""
        nibbles = _nibbles(self.packed.index_select(0, rows).flatten(1)).unflatten(1, (-1, GROUP))
        wide = (nibbles - 8 + self.shifts[:, None]) * self.scales.index_select(0, rows)[..., None]
        padded = GROUP * plane_codes.groups_of(self.twice)
        wide = wide.flatten(1)
        first = (wide[:, :padded] + wide[:, padded : 2 * padded])[:, : self.twice]
        read = wide[:, 2 * padded :][:, : self.read - self.twice]
        unread = (0, self.columns - self.read)
        known = F.pad(torch.cat([first, read], dim=1), unread)
        return known if self.is_exact else known + F.pad(self._left(rows), (self.whole, 0))

    def _left(self, rows: Tensor) -> Tensor:
        """(n, columns not whole): what a preview leaves out of each value."""
        stored = self.rest.index_select(0, rows)
        rest = _nibbles(stored)[:, : self.columns - self.whole] if self.halves_rest else stored.float()
        return plane_codes.scaled(rest - self.centres, self.steps.index_select(0, rows)[:, self.whole // GROUP :])


class GraphEmbedding(nn.Module):
    """The input table of a tied model."""

    def __init__(self, table: PlanesEmbedding, planes: GraphTable) -> None:
        super().__init__()
        self.planes = planes
        self.back = nn.Parameter(table.basis if table.unbasis is None else table.unbasis, requires_grad=False)
        self.scale = table.scale

    @property
    def weight(self) -> Tensor:
        """A tensor that models ask for a dtype and a device."""
        return self.back

    def forward(self, input_ids: Tensor) -> Tensor:
        """ids (batch, tokens) -> (batch, tokens, hidden)."""
        rows = self.planes.values(input_ids.flatten()) @ self.back
        found: Tensor = (rows * self.scale).unflatten(0, (input_ids.shape[0], input_ids.shape[1]))
        return found


class GraphHead(nn.Module):
    """The lm_head."""

    def __init__(self, head: PlanesHead, planes: GraphTable, repair: Tensor | None) -> None:
        super().__init__()
        self.planes = planes
        self.basis = nn.Parameter(head.table.basis, requires_grad=False)
        self.bias = head.bias
        self.rescored = 0 if planes.is_exact else min(head.rescored, head.out_features)
        self.repair = nn.Parameter(repair, requires_grad=False) if repair is not None else None

    @property
    def weight(self) -> Tensor:
        return self.basis

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, tokens, hidden) -> (batch, tokens, vocab)."""
        x = F.linear(hidden_states.flatten(0, 1), self.basis)
        logits = self.planes.preview(x)
        for added in (self.repair, self.bias):
            if added is not None:
                logits = logits + added
        if self.rescored:
            best = logits.topk(self.rescored, dim=1).indices
            rows = self.planes.values(best.flatten()).unflatten(0, (-1, self.rescored))
            exact = (rows @ x[:, :, None])[:, :, 0]
            logits = logits.scatter(1, best, exact if self.bias is None else exact + self.bias[best])
        found: Tensor = logits.unflatten(0, (hidden_states.shape[0], hidden_states.shape[1]))
        return found


def graph_modules(head: PlanesHead) -> tuple[GraphHead, GraphEmbedding | None]:
    """Modules for a graph, in place of the head and of a table that it shares; both read the same tensors."""
    planes = GraphTable(head.table, head.reading)
    table = head.table
    return GraphHead(head, planes, head.repair), GraphEmbedding(table, planes) if isinstance(
        table, PlanesEmbedding
    ) else None


def _blocks(table: PlanesTable) -> list[slice]:
    return plane_codes.blocks_of(table.whole.shape[0], plane_codes.ROWS_AT_ONCE)


def _nibbles(packed: Tensor) -> Tensor:
    """(n, bytes) -> (n, 2 bytes) float32, as plane_codes.unpack_nibbles: graphs shift no bytes in every runtime."""
    wide = packed.float()
    upper = (wide / 16).floor()
    return torch.stack([wide - 16 * upper, upper], dim=2).flatten(1)


def _filled(columns: Tensor) -> Tensor:
    return F.pad(columns, (0, -columns.shape[1] % GROUP)) if columns.shape[1] % GROUP else columns
