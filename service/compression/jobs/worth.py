"""Whether a head that passes its gate is worth storing, and what to know before using it.

Apart from the gate, which asks how far predictions move. It decides only where the service chose the size (`auto`, or
a search for the fewest bytes): what was asked for by number is stored whatever it saves, with this in its report.
"""

from dataclasses import dataclass

from headroom.contract.report.frontier import FrontierOfReport
from headroom.contract.report.stored import ByteCounts
from headroom.contract.report.worth import PlainHead, WorthOfReport
from service.compression.jobs.report import HeadFindings

# Of the head's bytes. A step of decoding that reads less than a twentieth of the head less is not told from noise.
LEAST_SAVING = 0.05
BITS = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class Worth:
    """Bytes of one head that could be stored, before and after."""

    removed: float  # share of the head's columns
    sizes: ByteCounts  # with all that follow from a plan
    decides: bool  # whether nothing is stored when it is not worth it

    @property
    def saved(self) -> int:
        """Bytes that a decoded token reads less."""
        return self.sizes.decode_read_before - _known(self.sizes.decode_read_after)

    @property
    def grown(self) -> int:
        """Bytes by which the checkpoint is larger; negative where it shrinks."""
        return _known(self.sizes.checkpoint_after) - self.sizes.checkpoint_before

    @property
    def is_worth_it(self) -> bool:
        """A file may grow, as that of a tied model does, but not by more than every token saves."""
        return self.saved >= LEAST_SAVING * self.sizes.head_before and self.grown <= self.saved

    @property
    def refuses(self) -> bool:
        return self.decides and not self.is_worth_it

    def told(self, plain: dict[str, PlainHead]) -> WorthOfReport:
        """The worth as the report has it. plain: measured plain heads."""
        return WorthOfReport(
            worth_it=self.is_worth_it,
            decides=self.decides,
            removed=self.removed,
            head_share=_known(self.sizes.head_after) / self.sizes.head_before,
            decode_read_share=_known(self.sizes.decode_read_after) / self.sizes.decode_read_before,
            checkpoint_share=_known(self.sizes.checkpoint_after) / self.sizes.checkpoint_before,
            sentence=self._sentence(plain),
        )

    def _sentence(self, plain: dict[str, PlainHead]) -> str:
        read = 1 - _known(self.sizes.decode_read_after) / self.sizes.decode_read_before
        file = _known(self.sizes.checkpoint_after) / self.sizes.checkpoint_before - 1
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


def advice(head: HeadFindings, plain: dict[str, PlainHead]) -> str:
    """What a user should know before using the result: the plain alternative, as it was measured beside."""
    if head.frontier is not None:
        return _searched(head.bytes, head.frontier, plain)
    if head.bytes.head_after is None or not head.bytes.head_before:
        return f"Nothing was stored. {plain_words(plain)}"
    reads = f"This head reads {head.bytes.head_after / head.bytes.head_before:.2f} of the original bytes"
    if head.head_dtype == "planes":
        return f"{reads} and stores {_stored_share(head.bytes):.2f} of them. {plain_words(plain)}"
    if head.head_dtype != "source":
        reads += f", {BITS[head.head_dtype]}-bit columns included"
    return f"{reads}. {plain_words(plain)}{_grown(head.bytes)}"


def plain_words(plain: dict[str, PlainHead]) -> str:
    """One sentence of each measured plain head, and how to have one."""
    told = [
        f"All columns in {BITS[name]} bits, measured on the same text, read {one.share:.2f} of the head's bytes: "
        f"perplexity {_figure(one.perplexity_drift, '+.2%')}, KL {_figure(one.kl_mean, '.2g')} nats a token, the same "
        f"most probable token at {one.top1_agreement:.1%} of positions (ratio 0, options.head_dtype {name})."
        for name, one in plain.items()
    ]
    return " ".join(told)


def _searched(sizes: ByteCounts, frontier: FrontierOfReport, plain: dict[str, PlainHead]) -> str:
    """What a search compared, plain rounded heads among it."""
    in_planes = sum(one.head_dtype == "planes" for one in frontier.points)
    compared = f"{frontier.swept} sizes in the model's own dtype, {in_planes} readings of planes and "
    compared += f"{frontier.measured} rounded heads"
    if sizes.head_after is None:
        return (
            f"Nothing was stored. Compared were {compared}; the frontier says what each would cost. "
            f"{plain_words(plain)}"
        )
    return (
        f"This head reads {sizes.head_after / sizes.head_before:.2f} of the original bytes and stores "
        f"{_stored_share(sizes):.2f}: the best for this budget of {compared}. {plain_words(plain)}{_grown(sizes)}"
    )


def _grown(sizes: ByteCounts) -> str:
    """Why the file of a tied model is larger now."""
    before, after = sizes.checkpoint_before, sizes.checkpoint_after
    if after is None or after <= before:
        return ""
    return (
        f" The checkpoint holds {after:,} bytes, {before:,} before: the head shared the input table, which must stay "
        "as it was, and has one of its own now."
    )


def _stored_share(sizes: ByteCounts) -> float:
    return _known(sizes.stored_after) / _known(sizes.stored_before)


def _figure(value: float | None, form: str) -> str:
    return "no finite number" if value is None else f"{value:{form}}"


def _known(count: int | None) -> int:
    assert count is not None  # of a planned checkpoint every size is
    return count
