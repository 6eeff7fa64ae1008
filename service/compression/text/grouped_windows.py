"""A corpus of labelled texts becomes windows that belong to one group each, disjoint calibration and evaluation ones.

Every group gets an equal share of the token caps, so that small groups are measured as well as their text allows.
"""

from dataclasses import replace
from typing import Any

import torch

from service.compression.text.corpus import (
    OVERSAMPLING,
    Frame,
    Text,
    Windows,
    WindowSettings,
    make_windows,
    read_documents,
    windows_of,
)
from service.foundation.errors import CorpusNotText, CorpusTooShort

MOST_GROUPS = 64
MOST_CHARACTERS_PER_TOKEN = 16  # texts of a group beyond this many for each token wanted are not kept


def read_groups(text: Text, settings: WindowSettings) -> dict[str, list[str]]:
    """Texts by group, names sorted. CorpusNotText for a line without a group, or for too many groups."""
    assert text.group_field is not None
    most = OVERSAMPLING * MOST_CHARACTERS_PER_TOKEN * (settings.calibration_tokens + settings.evaluation_tokens)
    groups: dict[str, list[str]] = {}
    kept: dict[str, int] = {}
    names = read_documents(text.path, text.format, text.group_field)
    for name, document in zip(names, read_documents(text.path, text.format, text.field), strict=True):
        if kept.get(name, 0) < most:
            groups.setdefault(name, []).append(document)
            kept[name] = kept.get(name, 0) + len(document)
        if len(groups) > MOST_GROUPS:
            raise CorpusNotText(
                f"field {text.group_field!r} has more than {MOST_GROUPS} values: name one that sorts texts into few"
            )
    return dict(sorted(groups.items()))


def grouped_windows(
    tokenizer: Any, groups: dict[str, list[str]], settings: WindowSettings, frame: Frame
) -> tuple[Windows, list[str]]:
    """Windows, and the group of each evaluation window.

    A group of one window is evaluated only, a shorter one left out.
    CorpusTooShort when no group has both a calibration and an evaluation window.
    """
    share = replace(
        settings,
        calibration_tokens=settings.calibration_tokens // max(len(groups), 1),
        evaluation_tokens=settings.evaluation_tokens // max(len(groups), 1),
    )
    found, of_window = [], []
    for name, documents in groups.items():
        try:
            windows = make_windows(tokenizer, iter(documents), share, frame)
        except CorpusTooShort:
            rows = windows_of(tokenizer, iter(documents), share, frame)
            windows = Windows(rows[:0], rows, "window")
        found.append(windows)
        of_window += [name] * windows.evaluation.shape[0]
    calibration = torch.cat([windows.calibration for windows in found]) if found else torch.empty(0, 0)
    if not calibration.shape[0]:
        raise CorpusTooShort("no group of the corpus has a calibration and an evaluation window: send more text")
    split = "document" if all(windows.split == "document" for windows in found) else "window"
    return Windows(calibration, torch.cat([windows.evaluation for windows in found]), split), of_window
