"""Format version 2 of a checkpoint: a head in planes as config.json describes it, and what is refused. Needs torch.

Which tensors there are follows from the description; docs/checkpoint-format.md has the table.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import nn

from headroom.loading import plane_codes
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead, PlanesTable

PLANES_VERSION = 2  # of the checkpoint: who writes one and who loads one must mean the same tensors
PLANES = ("whole", "high", "low", "scales")


class Described(Protocol):
    """The fields of `quantization_config` that tell the modules."""

    hidden_size: int
    vocab_size: int
    kept_columns: int  # columns that are stored
    whole_columns: int
    bits: int
    rescored: int
    preview_columns: int
    group: int
    tied: bool
    bias: bool
    unbasis: bool
    mean_hidden: bool
    lm_head: str
    embed_tokens: str
    embed_scale: float


def check(config: Described) -> None:
    """ValueError, with what to do, for a description that this package cannot mean."""
    if config.group != plane_codes.GROUP or config.bits not in plane_codes.PREVIEW_BITS:
        raise ValueError(
            f"this package reads planes in groups of {plane_codes.GROUP} and previews of "
            f"{', '.join(map(str, sorted(plane_codes.PREVIEW_BITS)))} bits, not groups of {config.group} and "
            f"{config.bits} bits: install a newer headroom-lm"
        )
    columns, whole = config.kept_columns, config.whole_columns
    if not (0 <= whole <= columns <= config.hidden_size and whole % plane_codes.GROUP == 0):
        raise ValueError(f"this checkpoint's config.json is damaged: {whole} whole columns of {columns} stored ones")
    if not (0 <= config.rescored <= config.vocab_size and max(whole, 1) <= config.preview_columns <= columns):
        raise ValueError(
            f"this checkpoint's config.json is damaged: {config.rescored} rows rescored of {config.vocab_size}, "
            f"{config.preview_columns} columns read of {columns}"
        )


def planes_embedding(config: Described, plain: nn.Module) -> PlanesEmbedding:
    """The empty module that takes the place of the input embedding `plain` of a tied model."""
    return PlanesEmbedding(
        config.hidden_size,
        config.vocab_size,
        config.whole_columns,
        unbasis=config.unbasis,
        # transformers 4 scales Gemma 2 in the model, 5 in the embedding: only what the replaced one did is done.
        scale=1.0 if type(plain) is nn.Embedding else config.embed_scale,
        padding_idx=getattr(plain, "padding_idx", None),
    )


def planes_head(config: Described, table: PlanesEmbedding | None) -> PlanesHead:
    """The empty head in planes. table: the input table whose planes it reads, in a tied model."""
    return PlanesHead(
        config.hidden_size,
        config.vocab_size,
        config.kept_columns,
        config.whole_columns,
        bits=config.bits,
        rescored=config.rescored,
        preview_columns=config.preview_columns,
        bias=config.bias,
        has_mean=config.mean_hidden,
        table=table,
    )


def check_files(config: Described, files: Iterable[str]) -> None:
    """ValueError where planes lack in `files` (safetensors) or their shapes disagree with the description."""
    holder = config.embed_tokens if config.tied else config.lm_head
    with torch.device("meta"):
        expected = PlanesTable(config.hidden_size, config.vocab_size, config.kept_columns, config.whole_columns)
    wanted = {f"{holder}.{name}": tuple(tensor.shape) for name, tensor in expected.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in wanted.keys() & set(file.keys())}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            told = "missing" if name not in found else f"{found[name]}, not {shape}"
            raise ValueError(
                f"this headroom checkpoint is damaged: {name} is {told}, as its config.json says; download it again"
            )


def check_scales(table: PlanesTable) -> None:
    """ValueError where a scale is no finite number."""
    if table.scales.device.type != "meta" and not bool(table.scales.view(torch.bfloat16).isfinite().all()):
        raise ValueError("this headroom checkpoint is damaged: a scale of its planes is not finite; download it again")


def described(
    *, whole_columns: int, bits: int, rescored: int, preview_columns: int, unbasis: bool, mean_hidden: bool
) -> Mapping[str, Any]:
    """The fields of `quantization_config` that version 1 has not."""
    return {
        "version": PLANES_VERSION,
        "head": "planes",
        "whole_columns": whole_columns,
        "bits": bits,
        "rescored": rescored,
        "preview_columns": preview_columns,
        "group": plane_codes.GROUP,
        "unbasis": unbasis,
        "mean_hidden": mean_hidden,
    }
