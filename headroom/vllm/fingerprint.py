"""The fingerprint of a headroom checkpoint, checked once vLLM has loaded it: the whole model on sixteen tokens.

While it loads vLLM has no cache of keys and values yet, so its attention cannot run. For this one pass each attention
layer is given causal attention without a cache, which is the same function; everything else is vLLM's own code.
Time: one forward pass of 16 tokens, not compiled. Where attention is of a kind that is not known here, a warning says
that nothing was checked.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import set_current_vllm_config
from vllm.distributed import get_pp_group
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import AttentionType

from headroom.loading.head import require_fingerprint
from headroom.loading.planes_head import PlanesHead

log = logging.getLogger("vllm.headroom")  # below vLLM's own logger, which has a handler


class CacheFreeAttention:
    """Attention without a cache, in place of a backend's: one sequence from its first token on."""

    supports_quant_query_input = False

    def __init__(self, scale: float, soft_cap: float) -> None:
        self.scale, self.soft_cap = scale, soft_cap

    def forward(
        self,
        layer: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: object,
        attn_metadata: object,
        output: Tensor,
        **more: object,
    ) -> Tensor:
        """query (tokens, heads, size), key and value (tokens, kv_heads, size); fills output (tokens, heads, size)."""
        groups = query.shape[1] // key.shape[1]
        keys, values = (part.float().repeat_interleave(groups, dim=1) for part in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query.float(), keys) * self.scale
        if self.soft_cap:
            scores = self.soft_cap * torch.tanh(scores / self.soft_cap)
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        return output.copy_(torch.einsum("hqk,khd->qhd", weights, values))


def check_loaded(model: nn.Module, vllm_config: Any, model_config: Any) -> None:
    """ValueError, with what is wrong, unless the model reproduces the checkpoint's stored logits."""
    fingerprint = model_config.hf_config.quantization_config.get("fingerprint")
    if fingerprint is None:
        return
    layers = vllm_config.compilation_config.static_forward_context.values()
    attention = [layer for layer in layers if isinstance(layer, AttentionLayerBase)]
    reason = hindrance(attention, len(fingerprint["input_ids"]), vllm_config, model_config)
    if reason is not None:
        log.warning("headroom: the fingerprint of this checkpoint was not checked: %s", reason)
        return
    try:
        found = logits_of(model, attention, fingerprint["input_ids"], vllm_config)
    except Exception as error:  # whatever an architecture needs beside a cache is no fault of the checkpoint
        log.warning("headroom: the fingerprint of this checkpoint was not checked: %r", error)
        return
    if found is not None:  # on a GPU one rank has the logits of all
        require_fingerprint(found, fingerprint["logits"], model_config.dtype)
        log.info("headroom: the model reproduces the fingerprint of its checkpoint")


def hindrance(attention: list[Any], tokens: int, vllm_config: Any, model_config: Any) -> str | None:
    """Why this model cannot run without a cache, or None."""
    parallel = vllm_config.parallel_config
    if get_pp_group().world_size > 1 or parallel.data_parallel_size > 1 or parallel.enable_expert_parallel:
        return "its layers are on several ranks, which cannot run together yet"
    if model_config.uses_mrope:
        return "its positions are of three kinds"
    for layer in attention:
        if type(layer) is not Attention or layer.attn_type != AttentionType.DECODER:
            return f"its attention is of the kind {type(layer).__name__}"
        if layer.kv_sharing_target_layer_name is not None:
            return "layers share their keys and values"
        if layer.has_sink or getattr(layer.impl, "alibi_slopes", None) is not None:
            return "its attention has sinks or slopes"
        if layer.sliding_window is not None and layer.sliding_window < tokens:
            return f"its attention sees {layer.sliding_window} tokens only"
    return None


@torch.inference_mode()
def logits_of(model: Any, attention: list[Any], input_ids: list[int], vllm_config: Any) -> Tensor | None:
    """Logits after the last of `input_ids`, at those same ids; None on a rank that has none. All ranks must ask."""
    ids = torch.tensor(input_ids, device=vllm_config.device_config.device)
    with ExitStack() as stack:
        stack.enter_context(set_current_vllm_config(vllm_config))
        stack.enter_context(set_forward_context(None, vllm_config, num_tokens=len(input_ids), skip_compiled=True))
        stack.enter_context(without_cache(attention))
        for head in [module for module in model.modules() if isinstance(module, PlanesHead)]:
            stack.enter_context(as_stored(head))
        states = model(input_ids=ids, positions=torch.arange(len(input_ids), device=ids.device))
        logits = model.compute_logits(states[-1:])
    return None if logits is None else logits[0].float()[ids].cpu()


@contextmanager
def without_cache(attention: list[Any]) -> Iterator[None]:
    implementations = [layer.impl for layer in attention]
    for layer in attention:
        layer.impl = CacheFreeAttention(layer.impl.scale, getattr(layer.impl, "logits_soft_cap", None) or 0.0)
    try:
        yield
    finally:
        for layer, implementation in zip(attention, implementations, strict=True):
            layer.impl = implementation


@contextmanager
def as_stored(head: PlanesHead) -> Iterator[None]:
    """A context in which the head reads as its fingerprint was taken, whatever additional_config asks for."""
    asked = head.bits, head.rescored, head.preview_columns
    if asked != head.stored_setting:
        head.read(*head.stored_setting)
        head.prepare()
    with head.answering_once():
        yield
    if asked != head.stored_setting:
        head.read(*asked)
        head.prepare()
