"""Decide what a checkpoint holds: new head tensors, everything else as the source has it, and the config.

The format is described in docs/checkpoint-format.md. Reads headers only, writes nothing (checkpoint_writing.py does).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headroom.loading.head import FORMAT_VERSION
from service.compression.heads.slicing import SlicedFactors
from service.compression.states.lm_head import LmHead, StoredNames
from service.models.model_files import ModelInspection, TensorEntry


@dataclass(frozen=True, eq=False)
class Plan:
    """What the checkpoint will hold: new tensors, and where the others are copied from."""

    tensors: dict[str, Tensor | TensorEntry]  # in file order
    config: dict[str, Any]
    removed: dict[str, Tensor | TensorEntry]  # for a file that nothing loads by default; may be empty

    @property
    def nbytes(self) -> int:
        return sum(item.nbytes for item in self.tensors.values())


def plan_checkpoint(
    source: ModelInspection,
    head: LmHead,
    stored: StoredNames,
    factors: SlicedFactors,
    *,
    method: str,
    keep_tied: bool,
    keep_removed: bool,
    base_model_prefix: str,
    fingerprint: dict[str, Any] | None,
) -> Plan:
    """Decide every tensor and the config. keep_tied: a tied table is stored once (docs/checkpoint-format.md).

    keep_removed: what `headroom restore` needs beside the checkpoint goes into a file of its own.
    A rounded head has a table of its own: rounding the shared one would change the input of the model too.
    """
    tied = head.is_tied and keep_tied and factors.rounded is None
    new = _head_tensors(head.name, factors, tied=tied)
    if factors.bias is not None:  # BERT's head reads its bias from its parent, under the name that the file has
        new |= dict.fromkeys(stored.bias, factors.bias)
    if tied:
        new |= _embedding_tensors(head.embed_name, factors)
    config = plain_config(source, head, tied=tied)
    config["quantization_config"] = {
        "quant_method": "headroom",
        "version": FORMAT_VERSION,
        "method": method,
        "hidden_size": head.hidden_size,
        "vocab_size": head.vocab_size,
        "kept_columns": factors.kept,
        "permutation": factors.is_permutation,
        "tied": tied,
        "bias": factors.bias is not None,
        "lm_head": head.name,
        "embed_tokens": head.embed_name,
        "embed_scale": head.embed_scale if tied else 1.0,
        "source_bias": head.module_bias is not None,
        "source_tied": head.is_tied,
        "source_tie_word_embeddings": source.config.get("tie_word_embeddings"),
        "source_names": source_names(head, stored, base_model_prefix),
        "nested": factors.is_nested,
        "refined": factors.refined,
        "head_dtype": "source" if factors.rounded is None else factors.rounded.head_dtype,
        "mean_repaired": factors.is_nested and factors.mean_hidden is not None,
        "transform": head.transform.describe(),
        "fingerprint": fingerprint,
    }
    removed = _removed(head, source, stored, factors) if keep_removed else {}
    return Plan(new | copied_tensors(source, head, stored, base_model_prefix, tied=tied), config, removed)


def plan_dense(
    source: ModelInspection,
    head: LmHead,
    stored: StoredNames,
    weight: Tensor,
    bias: Tensor | None,
    base_model_prefix: str,
) -> Plan:
    """The source with another head of the same width, (vocab, hidden), that has a table of its own; a plain config."""
    names = list(stored.weight) if not head.is_tied else [*stored.head] or [f"{head.name}.weight"]
    new: dict[str, Tensor | TensorEntry] = dict.fromkeys(names, weight)
    if bias is not None:
        new |= dict.fromkeys([names[0].removesuffix("weight") + "bias", *stored.bias], bias)
    copied = copied_tensors(source, head, stored, base_model_prefix, tied=False)
    return Plan(new | copied, plain_config(source, head, tied=False), {})


def source_names(head: LmHead, stored: StoredNames, base_model_prefix: str) -> dict[str, Any]:
    """How the source's files name the head's tensors, for restoring them."""
    return {
        "weight": list(stored.weight),
        "bias": list(stored.bias),
        "prefix": _missing_prefix(head, stored, base_model_prefix),  # that ours have and the source's lack
    }


def copied_tensors(
    source: ModelInspection, head: LmHead, stored: StoredNames, base_model_prefix: str, *, tied: bool
) -> dict[str, Tensor | TensorEntry]:
    """Tensors that stay as they are: all but the head, and but a table that it goes on sharing."""
    prefix = _missing_prefix(head, stored, base_model_prefix)
    dropped = set(stored.weight + stored.bias) - (set() if tied else set(stored.embed))
    copied: dict[str, Tensor | TensorEntry] = {}
    for name, entry in source.tensors.items():
        if name not in dropped:
            copied[name if not prefix or name.startswith(f"{head.name}.") else prefix + name] = entry
    if not tied and not stored.embed:  # a tied table that was stored under the head's name only
        copied[f"{head.embed_name}.weight"] = source.tensors[stored.weight[0]]
    return copied


def plain_config(source: ModelInspection, head: LmHead, *, tied: bool) -> dict[str, Any]:
    config = dict(source.config)
    # In an encoder-decoder the same setting says that its two halves share their input table (and T5 scales by it).
    if tied or source.config.get("is_encoder_decoder"):
        return config
    inner = config.get("text_config")
    if head.is_tied or config.get("tie_word_embeddings"):  # also of a source whose config and weights disagree
        config["tie_word_embeddings"] = False
    if isinstance(inner, dict) and inner.get("tie_word_embeddings"):
        config["text_config"] = inner | {"tie_word_embeddings": False}
    return config


def _missing_prefix(head: LmHead, stored: StoredNames, base_model_prefix: str) -> str:
    """Checkpoints of a bare base model lack its prefix (`wte.weight` for `transformer.wte.weight`); ours never do."""
    full, prefix = f"{head.embed_name}.weight", f"{base_model_prefix}."
    bare = full.removeprefix(prefix)
    return prefix if bare != full and bare in stored.embed and full not in stored.embed else ""


def _head_tensors(name: str, factors: SlicedFactors, *, tied: bool) -> dict[str, Tensor | TensorEntry]:
    tensors: dict[str, Tensor | TensorEntry] = {}
    if factors.rounded is not None:
        tensors |= {f"{name}.{part}": tensor for part, tensor in factors.rounded.tensors.items()}
    elif not tied:
        tensors[f"{name}.weight"] = factors.weight
    if factors.triangle is not None:
        held = factors.triangle.shape[0] if tied else factors.kept  # columns that the checkpoint holds
        tensors[f"{name}.triangle"] = factors.triangle[:held, :held].contiguous().view(torch.int32)
    if factors.is_nested and factors.mean_hidden is not None:
        tensors[f"{name}.mean_hidden"] = factors.mean_hidden.view(torch.int32)
    if factors.order is not None:
        tensors[f"{name}.keep_columns"] = factors.order[: factors.kept]
    else:
        assert factors.projection is not None
        tensors[f"{name}.basis"] = factors.projection
    if factors.bias is not None:
        tensors[f"{name}.bias"] = factors.bias
    return tensors


def _removed(
    head: LmHead, source: ModelInspection, stored: StoredNames, factors: SlicedFactors
) -> dict[str, Tensor | TensorEntry]:
    """What going back needs and the checkpoint does not hold: columns of an untied head, a bias before its repair."""
    tensors: dict[str, Tensor | TensorEntry] = {f"bias.{name}": source.tensors[name] for name in stored.bias}
    if head.is_tied:
        return tensors
    tensors["weight_rest"] = factors.rest
    if factors.order is not None:
        tensors["inverse_order"] = factors.inverse_order
    else:
        assert factors.rotation is not None
        tensors["rotation"] = factors.rotation
    return tensors


def _embedding_tensors(name: str, factors: SlicedFactors) -> dict[str, Tensor | TensorEntry]:
    tensors: dict[str, Tensor | TensorEntry] = {
        f"{name}.weight": factors.weight,
        f"{name}.weight_rest": factors.rest,
    }
    if factors.order is not None:
        tensors[f"{name}.inverse_order"] = factors.inverse_order
    else:
        assert factors.rotation is not None
        tensors[f"{name}.rotation"] = factors.rotation
    return tensors
