"""Plan the checkpoint of a head in bit planes (format version 2); checkpoint_writing.py writes it.

Fits nothing. Memory: the planes beside the codes that they are split from, a byte for an entry of the head.
"""

from typing import Any

import torch
from torch import Tensor

from headroom.loading import plane_codes
from headroom.loading.planes_format import described
from service.compression.checkpoint.checkpoint import Plan, copied_tensors, plain_config, source_names
from service.compression.heads.plane_fit import FittedPlanes
from service.compression.states.lm_head import LmHead, StoredNames
from service.models.model_files import ModelInspection, TensorEntry


def plan_planes(
    source: ModelInspection,
    head: LmHead,
    stored: StoredNames,
    fitted: FittedPlanes,
    *,
    method: str,
    bits: int,
    rescored: int,
    keep_tied: bool,
    base_model_prefix: str,
    fingerprint: dict[str, Any] | None,
    preview_columns: int | None = None,
) -> Plan:
    """Decide every tensor and the config. keep_tied: a tied table is stored once, as the planes, and the head reads it.

    bits, rescored, preview_columns (all without it): what a loaded head reads until it is set otherwise. ValueError for
    scales that bfloat16 does not hold, or a tied table with columns missing.
    """
    tied = head.is_tied and keep_tied
    columns = fitted.codes.shape[1]
    if tied and columns != head.hidden_size:
        raise ValueError(f"a shared table has all {head.hidden_size} columns, not {columns}")
    new = _planes_tensors(head.embed_name if tied else head.name, fitted, head.weight.dtype)
    if fitted.bias is not None:  # BERT's head reads its bias from its parent, under the name that the file has
        new |= dict.fromkeys([f"{head.name}.bias", *stored.bias], fitted.bias.to(head.weight.dtype))
    new[f"{head.name}.mean_hidden"] = fitted.mean_hidden.float().contiguous().view(torch.int32)
    config = plain_config(source, head, tied=tied)
    config["quantization_config"] = {
        "quant_method": "headroom",
        "method": method,
        "hidden_size": head.hidden_size,
        "vocab_size": head.vocab_size,
        "kept_columns": columns,
        "tied": tied,
        "bias": fitted.bias is not None,
        "lm_head": head.name,
        "embed_tokens": head.embed_name,
        "embed_scale": head.embed_scale if tied else 1.0,
        "source_bias": head.module_bias is not None,
        "source_tied": head.is_tied,
        "source_tie_word_embeddings": source.config.get("tie_word_embeddings"),
        "source_names": source_names(head, stored, base_model_prefix),
        "transform": head.transform.describe(),
        "fingerprint": fingerprint,
        **described(
            whole_columns=fitted.whole_columns,
            bits=bits,
            rescored=rescored,
            preview_columns=preview_columns or columns,
            unbasis=False,
            mean_hidden=True,
        ),
    }
    return Plan(new | copied_tensors(source, head, stored, base_model_prefix, tied=tied), config, {})


def _planes_tensors(holder: str, fitted: FittedPlanes, dtype: torch.dtype) -> dict[str, Tensor | TensorEntry]:
    planes = plane_codes.split(fitted.codes, fitted.whole_columns)
    scales = fitted.scales.to(torch.bfloat16)
    if not torch.equal(scales.to(fitted.scales.dtype), fitted.scales):
        raise ValueError("codes were counted in scales that bfloat16 does not hold")
    return {
        f"{holder}.whole": planes.whole,
        f"{holder}.high": planes.high,
        f"{holder}.low": planes.low,
        f"{holder}.scales": scales.view(torch.int16),
        f"{holder}.basis": fitted.basis.to(dtype),
    }
