"""Checkpoints with a head in planes: of any model folder, rounded to the nearest in a seeded orthogonal basis."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from headroom.loading import plane_codes
from headroom.loading.transformers_plugin import fingerprint_of
from service.compression.checkpoint.checkpoint_writing import write_checkpoint
from service.compression.checkpoint.planes_checkpoint import plan_planes
from service.compression.heads.plane_fit import FittedPlanes
from service.compression.states.lm_head import find_lm_head
from service.compression.states.source import stored_names_of
from service.models.model_files import inspect_model


def random_basis(size: int, seed: int = 1) -> Tensor:
    basis: Tensor = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed))).Q
    return basis


def round_head(weight: Tensor, bias: Tensor | None, basis: Tensor, mean_hidden: Tensor, whole: int) -> FittedPlanes:
    """Nothing is fitted: the nearest codes of W in the basis as the model's dtype holds it."""
    stored = basis.to(weight.dtype)
    codes, scales = plane_codes.round_to_codes(weight.float() @ torch.linalg.inv(stored.float()))
    return FittedPlanes(codes, scales, stored, bias, mean_hidden, whole, 0.0)


def write_planes(
    source: Path,
    folder: Path,
    *,
    auto_class: str = "AutoModelForCausalLM",
    basis: Tensor | None = None,
    whole: int = 32,
    bits: int = 4,
    rescored: int = 16,
    keep_tied: bool = True,
    max_shard_bytes: int = 10**10,
    mean_hidden: Tensor | None = None,
) -> Path:
    """`folder` is made. The fingerprint is what the source gives."""
    model: Any = getattr(transformers, auto_class).from_pretrained(source, dtype="auto").eval()
    inspection = inspect_model(source)
    ids = torch.arange(2, 34).reshape(2, 16)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs |= {"decoder_input_ids": ids}
    head = find_lm_head(model, inputs)
    basis = random_basis(head.hidden_size) if basis is None else basis
    mean = torch.zeros(head.hidden_size) if mean_hidden is None else mean_hidden
    rounded = round_head(head.weight, head.module_bias, basis, mean, whole)
    plan = plan_planes(
        inspection,
        head,
        stored_names_of(inspection, head, model),
        rounded,
        method="probability",
        bits=bits,
        rescored=rescored,
        keep_tied=keep_tied,
        base_model_prefix=model.base_model_prefix,
        fingerprint={"input_ids": ids[0].tolist(), "logits": fingerprint_of(model, ids[0].tolist())},
    )
    folder.mkdir()
    write_checkpoint(plan, inspection, folder, max_shard_bytes, lambda done: None)
    return folder
