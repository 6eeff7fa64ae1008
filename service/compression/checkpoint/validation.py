"""Load a stored checkpoint as a user would, and measure it end to end. Writes nothing."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.compression.checkpoint.stored_reading import StoredReading, stored_reading
from service.compression.drift.full_block import FullBlock
from service.compression.drift.sweep import Positions
from service.compression.numerics.buffers import Buffers
from service.compression.numerics.tiles import rows_at_once
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.hidden_states import stopped_at_lm_head
from service.compression.states.lm_head import LmHead
from service.compression.states.model_loading import loading_dtype, skeleton_of
from service.compression.states.offloading import Room, is_offloaded, map_windows, windows_at_once
from service.compression.text.examples import Examples
from service.foundation.errors import StoredMismatch
from service.models.model_files import inspect_model

# Relative difference between predicted and stored perplexity above which a job fails.
PERPLEXITY_TOLERANCE = 1e-3
# A tied table that was turned is rounded once more, and the body reads it: real drift, which the budget judges.
TURNED_TABLE_TOLERANCE = 1e-2
ROWS_AT_ONCE = 128
COMPARED_POSITIONS = 16  # whose logits are compared with those that were measured before storing


@dataclass(frozen=True, eq=False)
class StoredMeasurement:
    """What the stored checkpoint really does on the evaluation windows."""

    negative_log_likelihood: Tensor  # (windows,) float64, summed over each window, nats
    first_logits: Tensor  # (positions, vocab) float32, a few positions of the first window
    lengths: Tensor  # (windows,) predicted positions of each window
    against_source: Positions | None  # of every position, where the source's hidden states were given

    @property
    def perplexity(self) -> float:
        return float((self.negative_log_likelihood.sum() / self.lengths.sum()).exp())


def load_stored(folder: Path, auto_class: str, room: Room, dtype: torch.dtype | None = None) -> Any:
    """The public way: `import headroom`, then from_pretrained, which checks the fingerprint. StoredMismatch if not.

    dtype: if not that in which its source was measured.
    """
    import transformers

    import headroom  # noqa: F401  # registers the format

    load = getattr(transformers, auto_class).from_pretrained
    dtype = dtype or loading_dtype(inspect_model(folder))
    try:
        with room.placing(skeleton_of(folder, auto_class)) as placed:
            model = load(folder, local_files_only=True, dtype=dtype, **placed)
    except ValueError as error:  # the fingerprint
        raise StoredMismatch(f"the stored checkpoint does not load: {error}; nothing was published") from error
    return model.eval() if placed else model.to(room.device).eval()


class LoadedCheckpoint:
    """A loaded model with its head in float32, as the sweep has it: rounding of logits is the runtime's, and the full
    head has it too. What its code does after its head module is `head`'s."""

    def __init__(self, model: Any, head: LmHead) -> None:
        self._model = model
        self._head = head
        self._lm_head = copy.deepcopy(model.get_output_embeddings()).float()
        self._reading = stored_reading(self._lm_head)

    def measure(
        self,
        examples: Examples,
        first_positions: int,
        progress: Callable[[float], None],
        source: HiddenStates | None = None,
    ) -> StoredMeasurement:
        """Losses of windows.

        source: hidden states of the same windows in the model that was compressed. With them its logits are made
        beside, and those of the stored head tile by tile from the tensors of its loaded module (stored_reading.py);
        without them, and for `first_logits`, the module itself computes them.
        """
        model, head, lm_head, buffers = self._model, self._head, self._lm_head, Buffers()
        sums: list[Tensor] = []
        first: list[Tensor] = []
        found: list[Positions] = []
        at_once = windows_at_once(model, examples.labels.shape[1]) if is_offloaded(model) else 1
        blocks = list(examples.split(at_once))
        originals = repeat(None) if source is None else source.of_windows(at_once)
        with stopped_at_lm_head(model) as hidden_states:

            def measure(given: tuple[Examples, Tensor | None]) -> tuple[list[Tensor], list[Positions]]:
                block, original = given
                hidden = block.predicting(hidden_states(block.inputs))
                if block is blocks[0]:
                    first.append(head.logits_of(lm_head(hidden[:first_positions].float())).cpu())
                targets = block.targets.to(hidden.device)
                if original is None:
                    losses, positions = _losses(hidden, targets, lm_head, head), []
                else:
                    there = original.to(hidden.device)
                    positions = list(_beside(hidden, there, targets, self._reading, head, buffers))
                    losses = Positions.joined(positions).likelihood[:, 0].double()
                return [window.sum() for window in losses.split(block.lengths.tolist())], positions

            for losses, positions in map_windows(measure, zip(blocks, originals, strict=False), model):
                sums += losses
                found += positions
                progress(len(sums) / len(examples))
        beside = Positions.joined(found) if found else None
        return StoredMeasurement(torch.stack(sums), first[0], examples.lengths, beside)


def _losses(hidden: Tensor, targets: Tensor, lm_head: Any, head: LmHead) -> Tensor:
    """(positions,) nats, float64. hidden: (positions, hidden)."""
    losses = []
    for rows, wanted in zip(hidden.split(ROWS_AT_ONCE), targets.split(ROWS_AT_ONCE), strict=True):
        logits = head.logits_of(lm_head(rows.float()))
        losses.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none").double().cpu())
    return torch.cat(losses)


def _beside(
    hidden: Tensor, original: Tensor, targets: Tensor, stored: StoredReading, head: LmHead, buffers: Buffers
) -> Iterator[Positions]:
    """hidden, original: (positions, hidden) of the stored model and of its source."""
    rows = rows_at_once(head.vocab_size, hidden.device)
    for here, before, wanted in zip(hidden.split(rows), original.split(rows), targets.split(rows), strict=True):
        yield stored(FullBlock(before, wanted, head, buffers), here)


def check_reproduces(stored: StoredMeasurement, predicted_perplexity: float, tolerance: float) -> None:
    """StoredMismatch unless what is stored is what was measured."""
    difference = abs(stored.perplexity / predicted_perplexity - 1)
    if not difference <= tolerance:
        raise StoredMismatch(
            f"the stored checkpoint has perplexity {stored.perplexity:.6g}, {predicted_perplexity:.6g} was measured "
            f"before storing ({difference:.2%} apart, {tolerance:.1%} allowed); nothing was published"
        )
