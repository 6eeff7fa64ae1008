"""What a model is given and what it should predict, window by window. The one form that every objective ends in."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100  # the label of a position that predicts nothing, as everywhere in this ecosystem


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows of model inputs, and the token that each position of the logits should predict."""

    inputs: dict[str, Tensor]  # (windows, length) int64 each, by the name of the model's argument
    labels: Tensor  # (windows, positions) int64, IGNORED where nothing is predicted

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def lengths(self) -> Tensor:
        """(windows,) predicted positions of each window."""
        return (self.labels != IGNORED).sum(1)

    @property
    def targets(self) -> Tensor:
        """(predicted positions,) in the order of the windows."""
        return self.labels[self.labels != IGNORED]

    def predicting(self, hidden: Tensor) -> Tensor:
        """(windows, positions, hidden) -> (predicted positions, hidden)."""
        return hidden[(self.labels != IGNORED).to(hidden.device)]

    def split(self, windows: int) -> Iterator["Examples"]:
        """`windows` at a time."""
        for start in range(0, len(self), windows):
            yield self.part(slice(start, start + windows))

    def part(self, windows: slice) -> "Examples":
        return Examples({name: rows[windows] for name, rows in self.inputs.items()}, self.labels[windows])

    def first(self, windows: int, length: int) -> dict[str, Tensor]:
        """Inputs of a few windows, cut short."""
        return {name: rows[:windows, :length] for name, rows in self.inputs.items()}


def next_token_examples(windows: Tensor) -> Examples:
    """Causal: each position predicts the next token, the last one nothing. windows: (windows, window) ids."""
    nothing = torch.full((windows.shape[0], 1), IGNORED)
    return Examples({"input_ids": windows}, torch.cat([windows[:, 1:], nothing], dim=1))


def masked_examples(
    windows: Tensor, mask: int, special: Tensor, ordinary: Tensor, share: float, generator: torch.Generator
) -> Examples:
    """Masked: a seeded `share` of each window's tokens is predicted, from both sides, without the special ones.

    As BERT was trained (Devlin et al. 2019): of the chosen, 80 % become `mask`, 10 % one of `ordinary`, 10 % stay.
    """
    candidates = ~torch.isin(windows, special)
    candidates |= ~candidates.any(1, keepdim=True)  # a window of unknown words predicts those
    order = torch.rand(windows.shape, generator=generator).masked_fill(~candidates, 2.0).argsort(1).argsort(1)
    chosen = candidates & (order < (share * candidates.sum(1, keepdim=True)).round().clamp_min(1))
    how = torch.rand(windows.shape, generator=generator)
    random = ordinary[torch.randint(ordinary.numel(), windows.shape, generator=generator)]
    shown = torch.where(how < 0.8, mask, torch.where(how < 0.9, random, windows))
    return Examples({"input_ids": torch.where(chosen, shown, windows)}, torch.where(chosen, windows, IGNORED))


def taught_examples(sources: list[Tensor], targets: list[Tensor], start: int, pad: int) -> Examples:
    """Sequence to sequence, teacher-forced: the decoder sees `start` and the target so far, and predicts all of it."""
    labels = _padded(targets, IGNORED)
    shifted = [torch.cat([torch.tensor([start]), target[:-1]]) for target in targets]
    input_ids = _padded(sources, IGNORED)
    inputs = {
        "input_ids": input_ids.masked_fill(input_ids == IGNORED, pad),
        "attention_mask": (input_ids != IGNORED).long(),
        "decoder_input_ids": _padded(shifted, pad),
    }
    return Examples(inputs, labels)


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
