"""A corpus file becomes seeded, disjoint calibration and evaluation windows of token ids. No model here."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.errors import CorpusEmpty, CorpusNotText, CorpusTooShort

# Documents beyond this many times the tokens asked for are not read: enough to choose windows from.
OVERSAMPLING = 4
# A document split needs this many documents on average for each side, or single documents decide the result.
DOCUMENTS_FOR_SPLIT = 8
# A corpus smaller than the caps gives this share of its windows to calibration.
CALIBRATION_SHARE = 1 / 3


@dataclass(frozen=True)
class WindowSettings:
    """window: tokens a window holds, one prediction fewer. Token counts are caps."""

    window: int
    calibration_tokens: int
    evaluation_tokens: int
    seed: int


@dataclass(frozen=True, eq=False)
class Windows:
    """Two disjoint sets of windows. stride = window: no text is predicted twice."""

    calibration: Tensor  # (windows, window) int64
    evaluation: Tensor  # (windows, window) int64
    split: str  # "document" or "window"
    starts_with_bos: bool


def read_documents(path: Path, format: str, field: str | None) -> Iterator[str]:
    """Texts of a corpus file: one for plain text, one a line for JSON lines. CorpusNotText with the line at fault."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            if format != "jsonl":
                yield file.read()
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _field_of(line, field or "text", number)
    except UnicodeDecodeError as error:
        raise CorpusNotText(f"the corpus is not UTF-8 (byte {error.start}): convert it and send it again") from error


def _field_of(line: str, field: str, number: int) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusNotText(f"line {number} of the corpus is not JSON: {error.msg}") from error
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        raise CorpusNotText(f"line {number} of the corpus has no text in field {field!r}")
    return str(record[field])


def make_windows(tokenizer: Any, documents: Iterator[str], settings: WindowSettings) -> Windows:
    """CorpusEmpty without any text; CorpusTooShort below one calibration and one evaluation window."""
    bos = _bos_id(tokenizer)
    wanted = settings.calibration_tokens + settings.evaluation_tokens
    tokenized = list(_until(_tokenized(tokenizer, documents), OVERSAMPLING * wanted))
    if not any(tokenized):
        raise CorpusEmpty("the corpus holds no text")
    generator = torch.Generator().manual_seed(settings.seed)
    if len(tokenized) >= 2 * DOCUMENTS_FOR_SPLIT:
        windows = _split_by_document(tokenized, settings, bos, generator)
        if windows is not None:
            return windows
    return _split_by_window(tokenized, settings, bos, generator)


def _bos_id(tokenizer: Any) -> int | None:
    """The token that the tokenizer itself puts before a text, if any: such models need it in every window."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id if ids and ids[0] == tokenizer.bos_token_id else None


def _tokenized(tokenizer: Any, documents: Iterator[str]) -> Iterator[list[int]]:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for first, *rest in iter(lambda: list(islice(documents, 64)), []):
        batch = [text for text in (first, *rest) if text.strip()]
        if batch:
            for ids in tokenizer(batch, add_special_tokens=False, verbose=False).input_ids:
                yield [*ids, *end]


def _until(tokenized: Iterator[list[int]], limit: int) -> Iterator[list[int]]:
    seen = 0
    for ids in tokenized:
        yield ids
        seen += len(ids)
        if seen >= limit:
            return


def _cut(documents: list[list[int]], window: int, bos: int | None) -> Tensor:
    """Documents end to end, cut into (windows, window); the last, short piece is left out."""
    body = window if bos is None else window - 1
    stream = torch.tensor([token for ids in documents for token in ids], dtype=torch.int64)
    rows = stream[: stream.numel() // body * body].view(-1, body)
    return rows if bos is None else torch.cat([torch.full((rows.shape[0], 1), bos), rows], dim=1)


def _caps(settings: WindowSettings) -> tuple[int, int]:
    return max(settings.calibration_tokens // settings.window, 1), max(settings.evaluation_tokens // settings.window, 1)


def _split_by_document(
    documents: list[list[int]], settings: WindowSettings, bos: int | None, generator: torch.Generator
) -> Windows | None:
    """None when either side would lack a window."""
    order = torch.randperm(len(documents), generator=generator).tolist()
    calibration_cap, evaluation_cap = _caps(settings)
    total = sum(len(ids) for ids in documents)
    target = min(calibration_cap * settings.window, int(total * CALIBRATION_SHARE))
    taken, split = 0, 0
    while split < len(order) and taken < target:
        taken += len(documents[order[split]])
        split += 1
    calibration = _cut([documents[i] for i in order[:split]], settings.window, bos)[:calibration_cap]
    evaluation = _cut([documents[i] for i in order[split:]], settings.window, bos)[:evaluation_cap]
    if not calibration.shape[0] or not evaluation.shape[0]:
        return None
    return Windows(calibration, evaluation, "document", bos is not None)


def _split_by_window(
    documents: list[list[int]], settings: WindowSettings, bos: int | None, generator: torch.Generator
) -> Windows:
    rows = _cut(documents, settings.window, bos)
    if rows.shape[0] < 2:
        tokens = sum(len(ids) for ids in documents)
        raise CorpusTooShort(
            f"the corpus has {tokens} tokens; one calibration and one evaluation window need "
            f"{2 * settings.window}: send more text or set options.window lower"
        )
    calibration_cap, evaluation_cap = _caps(settings)
    chosen = rows[torch.randperm(rows.shape[0], generator=generator)]
    count = min(calibration_cap, max(1, int(rows.shape[0] * CALIBRATION_SHARE)))
    return Windows(chosen[:count], chosen[count : count + evaluation_cap], "window", bos is not None)
