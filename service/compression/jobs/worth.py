"""Whether a head that passes its gate is worth storing: what it saves of the bytes that a token reads, and of the file.

Apart from the gate, which asks how far predictions move. It decides only where the service chose the size (`auto`, or
a search for the fewest bytes): what was asked for by number is stored whatever it saves, with this in its report.
"""

from dataclasses import dataclass
from typing import Any

from service.compression.jobs.report import plain_words

# Of the head's bytes. A step of decoding that reads less than a twentieth of the head less is not told from noise.
LEAST_SAVING = 0.05


@dataclass(frozen=True)
class Worth:
    """Bytes of one head that could be stored, before and after."""

    removed: float  # share of the head's columns
    sizes: dict[str, Any]  # as report.sizes says them
    decides: bool  # whether nothing is stored when it is not worth it

    @property
    def saved(self) -> int:
        """Bytes that a decoded token reads less."""
        return int(self.sizes["decode_read_before"] - self.sizes["decode_read_after"])

    @property
    def grown(self) -> int:
        """Bytes by which the checkpoint is larger; negative where it shrinks."""
        return int(self.sizes["checkpoint_after"] - self.sizes["checkpoint_before"])

    @property
    def is_worth_it(self) -> bool:
        """A file may grow, as that of a tied model does, but not by more than every token saves."""
        return self.saved >= LEAST_SAVING * self.sizes["head_before"] and self.grown <= self.saved

    @property
    def refuses(self) -> bool:
        return self.decides and not self.is_worth_it

    def as_dict(self, plain: dict[str, Any]) -> dict[str, Any]:
        """As docs/report.md names it. plain: measured plain heads, as the report has them."""
        return {
            "worth_it": self.is_worth_it,
            "decides": self.decides,
            "removed": self.removed,
            "head_share": self.sizes["head_after"] / self.sizes["head_before"],
            "decode_read_share": self.sizes["decode_read_after"] / self.sizes["decode_read_before"],
            "checkpoint_share": self.sizes["checkpoint_after"] / self.sizes["checkpoint_before"],
            "sentence": self._sentence(plain),
        }

    def _sentence(self, plain: dict[str, Any]) -> str:
        sizes = self.sizes
        read = 1 - sizes["decode_read_after"] / sizes["decode_read_before"]
        file = sizes["checkpoint_after"] / sizes["checkpoint_before"] - 1
        changes = f"the checkpoint {'grows' if file > 0 else 'shrinks'} by {abs(file):.1%}"
        if self.is_worth_it:
            return f"A decoded token reads {read:.1%} fewer bytes; {changes}."
        if not self.refuses:
            return f"Hardly worth it: a decoded token reads {read:.1%} fewer bytes, and {changes}. {plain_words(plain)}"
        would = f"the checkpoint would {'grow' if file > 0 else 'shrink'} by {abs(file):.1%}"
        return (
            f"Within the budget only {self.removed:.1%} of the columns can go, a decoded token would read {read:.1%} "
            f"fewer bytes and {would}: nothing was stored. {plain_words(plain)}"
        )
