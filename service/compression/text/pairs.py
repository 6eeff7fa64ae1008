"""A corpus of (source, target) pairs, for a model that turns a text into another. Seeded, disjoint; no model here."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from service.compression.text.corpus import CALIBRATION_SHARE, OVERSAMPLING, Frame, Text, WindowSettings, read_documents
from service.foundation.errors import CorpusTooShort


def read_pairs(text: Text) -> Iterator[tuple[str, str]]:
    """(source, target) of each line of JSON lines that holds both. CorpusNotText with the line at fault."""
    sources, targets = (read_documents(text.path, "jsonl", field) for field in text.pair or ())
    return ((source, target) for source, target in zip(sources, targets, strict=True) if source and target)


def split_pairs(
    tokenizer: Any, pairs: Iterator[tuple[str, str]], settings: WindowSettings, frame: Frame
) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Seeded, disjoint (calibration, evaluation) pairs of framed ids, each side cut to a window. Caps count targets.

    CorpusTooShort below one pair for each.
    """
    wanted = OVERSAMPLING * (settings.calibration_tokens + settings.evaluation_tokens)
    read, tokens = [], 0
    for pair in pairs:
        ids = [tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in pair]
        source, target = (frame.around(torch.tensor(side[: settings.window - len(frame)]).long()) for side in ids)
        read.append((source, target))
        tokens += target.numel()
        if tokens >= wanted:
            break
    if len(read) < 2:
        raise CorpusTooShort("the corpus has fewer than two pairs: one is needed for calibration, one for evaluation")
    generator = torch.Generator().manual_seed(settings.seed)
    order = [read[index] for index in torch.randperm(len(read), generator=generator).tolist()]
    few = max(1, int(len(order) * CALIBRATION_SHARE))
    calibration = _up_to(order[:few], settings.calibration_tokens)
    return calibration, _up_to(order[len(calibration) :], settings.evaluation_tokens)


def _up_to(pairs: list[tuple[Tensor, Tensor]], tokens: int) -> list[tuple[Tensor, Tensor]]:
    """The first pairs, until their targets hold that many tokens."""
    taken = 0
    for count, (_, target) in enumerate(pairs):
        taken += target.numel()
        if taken >= tokens:
            return pairs[: count + 1]
    return pairs
