"""Names that the files of a result may have: what is published under them can be fetched, on any system."""

import unicodedata

MAX_STEP_BYTES = 255
REFUSED = frozenset('\\:*?"<>|')
REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, lone surrogates, line separators


def is_safe_path(path: str) -> bool:
    """Whether a relative path with '/' stays inside its folder, hides nothing and is read alike by every system."""
    return all(_is_safe_step(step) for step in path.split("/"))


def _is_safe_step(step: str) -> bool:
    if not step or step.startswith((".", " ", "~")) or step.endswith((".", " ")):
        return False
    if any(char in REFUSED or unicodedata.category(char) in REFUSED_CATEGORIES for char in step):
        return False
    return len(step.encode()) <= MAX_STEP_BYTES
