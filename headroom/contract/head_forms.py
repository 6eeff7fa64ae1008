"""What a form of head is called in tables and sentences, for every reader of a report."""

NAMES = {"source": "own dtype", "int8": "8 bits", "int4": "4 bits", "planes": "planes"}


def form_of(head_dtype: str, bits: int | None = None, rescored: int | None = None) -> str:
    """Its dtype, or how its planes are read."""
    return NAMES[head_dtype] if bits is None else reading_of(bits, rescored or 0)


def reading_of(bits: int, rescored: int) -> str:
    """How a head in bit planes is read."""
    if bits == 8:
        return "planes, all 8 bits"
    return f"planes, {bits} bits" + (f", {rescored:,} rescored" if rescored else "")


def described_planes(bits: int | None, rescored: int | None, whole_columns: int) -> str:
    """How the stored head reads, and which of its logits are exact; two sentences about "the head"."""
    stored = f"is stored in bit planes of 8-bit numbers, {whole_columns} columns of them whole"
    if bits is None:
        return f"{stored}."
    if bits == 8:
        return f"{stored}. All logits are exact to 8 bits."
    exact = (
        f"the best {rescored:,} of each position are computed again and exact to 8 bits"
        if rescored
        else "none is computed again"
    )
    return f"{stored}. A preview of all logits reads the upper {bits} bits of the others; {exact}."
