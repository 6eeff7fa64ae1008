"""A corpus file becomes seeded, disjoint calibration and evaluation windows of token ids. No model here."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.foundation.errors import CorpusEmpty, CorpusNotText, CorpusTooShort

BYTE_ORDER_MARK = "\ufeff"
TEXT_PIECE = 1 << 18  # characters of a plain text read at a time
LONGEST_LINE = 1 << 14
TOKENIZED_AT_ONCE = 1 << 20  # characters
# Documents beyond this many times the tokens asked for are not read: enough to choose windows from.
OVERSAMPLING = 4
# A document split needs this many documents on average for each side, or single documents decide the result.
DOCUMENTS_FOR_SPLIT = 8
# A corpus smaller than the caps gives this share of its windows to calibration.
CALIBRATION_SHARE = 1 / 3


@dataclass(frozen=True)
class Text:
    """A corpus file. `field` of JSON lines; two with a comma between them name source and target."""

    path: Path
    format: str
    field: str | None
    group_field: str | None = None  # of JSON lines: which group of texts a line belongs to

    @property
    def pair(self) -> tuple[str, str] | None:
        source, comma, target = (self.field or "").partition(",")
        return (source, target) if comma else None


@dataclass(frozen=True)
class WindowSettings:
    """Sizes of windows: tokens that each holds, special ones included, and caps on tokens in all."""

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


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts around a text, such as `<s>` and `</s>`."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, ids: Tensor) -> Tensor:
        """Tokens in their frame: (..., tokens) int64 -> (..., tokens and frame)."""
        before, after = (torch.tensor(part, dtype=torch.int64) for part in (self.before, self.after))
        shape = ids.shape[:-1]
        return torch.cat([before.expand(*shape, -1), ids, after.expand(*shape, -1)], dim=-1)


def frame_of(tokenizer: Any) -> Frame:
    """Found by reading a letter with and without special tokens."""
    framed, bare = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return Frame(tuple(framed[:start]), tuple(framed[start + len(bare) :]))
    return Frame()


def read_documents(path: Path, format: str, field: str | None) -> Iterator[str]:
    """Pieces of a plain text, or one text a line of JSON lines. CorpusNotText with the line at fault."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            if format != "jsonl":
                while piece := file.read(TEXT_PIECE):
                    yield piece + file.readline(LONGEST_LINE)  # to the end of the line, so that no word is cut
                return
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                if line.strip():
                    yield _field_of(line, field or "text", number)
    except UnicodeDecodeError as error:
        raise CorpusNotText(f"the corpus is not UTF-8 (byte {error.start}): convert it and send it again") from error


def _field_of(line: str, field: str, number: int) -> str:
    try:
        record = json.loads(line)
        text = record.get(field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise CorpusNotText(f"line {number} of the corpus has no text in field {field!r}")
        text.encode()  # a lone surrogate is JSON, but no text
    except (ValueError, RecursionError) as error:
        raise CorpusNotText(f"line {number} of the corpus is not JSON: {error}") from error
    return text


def make_windows(
    tokenizer: Any, documents: Iterator[str], settings: WindowSettings, frame: Frame, *, one_document: bool = False
) -> Windows:
    """CorpusEmpty without any text; CorpusTooShort below one calibration and one evaluation window.

    frame: put around every window. one_document: `documents` are pieces of one text, which is split by window only.
    """
    wanted = settings.calibration_tokens + settings.evaluation_tokens
    tokenized = list(_until(_tokenized(tokenizer, documents, not one_document), OVERSAMPLING * wanted))
    if not tokenized:
        raise CorpusEmpty("the corpus holds no text")
    generator = torch.Generator().manual_seed(settings.seed)
    if not one_document and len(tokenized) >= 2 * DOCUMENTS_FOR_SPLIT:
        windows = _split_by_document(tokenized, settings, frame, generator)
        if windows is not None:
            return windows
    return _split_by_window(tokenized, settings, frame, generator)


def windows_of(tokenizer: Any, documents: Iterator[str], settings: WindowSettings, frame: Frame) -> Tensor:
    """(windows, window) of all the text, in order and unsplit."""
    return _cut(list(_tokenized(tokenizer, documents, True)), settings.window, frame)


def _tokenized(tokenizer: Any, documents: Iterator[str], with_end: bool) -> Iterator[Tensor]:
    """(tokens,) int32 of each document that holds any text."""
    end = [tokenizer.eos_token_id] if with_end and tokenizer.eos_token_id is not None else []
    for batch in _batches(text for text in documents if text.strip()):
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False).input_ids:
            yield torch.tensor([*ids, *end], dtype=torch.int32)


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in documents:
        batch.append(text)
        if sum(map(len, batch)) >= TOKENIZED_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _until(tokenized: Iterator[Tensor], limit: int) -> Iterator[Tensor]:
    seen = 0
    for ids in tokenized:
        yield ids
        seen += ids.numel()
        if seen >= limit:
            return


def _cut(documents: list[Tensor], window: int, frame: Frame) -> Tensor:
    """Documents end to end, cut into (windows, window); the last, short piece is left out."""
    body = window - len(frame)
    stream = torch.cat([torch.empty(0, dtype=torch.int32), *documents]).long()
    return frame.around(stream[: stream.numel() // body * body].view(-1, body))


def _caps(settings: WindowSettings) -> tuple[int, int]:
    return max(settings.calibration_tokens // settings.window, 1), max(settings.evaluation_tokens // settings.window, 1)


def _split_by_document(
    documents: list[Tensor], settings: WindowSettings, frame: Frame, generator: torch.Generator
) -> Windows | None:
    """None when either side would lack a window."""
    order = torch.randperm(len(documents), generator=generator).tolist()
    calibration_cap, evaluation_cap = _caps(settings)
    total = sum(ids.numel() for ids in documents)
    target = min(calibration_cap * settings.window, int(total * CALIBRATION_SHARE))
    taken, split = 0, 0
    while split < len(order) and taken < target:
        taken += documents[order[split]].numel()
        split += 1
    calibration = _cut([documents[i] for i in order[:split]], settings.window, frame)[:calibration_cap]
    evaluation = _cut([documents[i] for i in order[split:]], settings.window, frame)[:evaluation_cap]
    if not calibration.shape[0] or not evaluation.shape[0]:
        return None
    return Windows(calibration, evaluation, "document")


def _split_by_window(
    documents: list[Tensor], settings: WindowSettings, frame: Frame, generator: torch.Generator
) -> Windows:
    rows = _cut(documents, settings.window, frame)
    if rows.shape[0] < 2:
        tokens = sum(ids.numel() for ids in documents)
        raise CorpusTooShort(
            f"the corpus has {tokens} tokens; one calibration and one evaluation window need "
            f"{2 * settings.window}: send more text or set options.window lower"
        )
    calibration_cap, evaluation_cap = _caps(settings)
    chosen = rows[torch.randperm(rows.shape[0], generator=generator)]
    count = min(calibration_cap, max(1, int(rows.shape[0] * CALIBRATION_SHARE)))
    return Windows(chosen[:count], chosen[count : count + evaluation_cap], "window")
