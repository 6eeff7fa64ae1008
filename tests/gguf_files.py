"""Tiny GGUF files of a random Llama with a byte tokenizer, written with the `gguf` package. Needs torch."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

from tests.tiny_models import make_model, make_tokenizer

# Names inside a layer, in transformers and in GGUF.
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OTHER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
MERGED = "ab"  # the one token that is not a byte: a tokenizer without merges would be none of GGUF's
CONTROL, NORMAL = 3, 1


def write_gguf(
    path: Path,
    *,
    tied: bool = False,
    rounded: bool = False,
    architecture: str = "llama",
    without: Collection[str] = (),
    tokenizer: bool = True,
) -> Any:
    """Writes the file and gives the model that is in it. rounded: matrices as Q8_0; without: tensors left out."""
    model = make_model("llama", tied=tied)
    writer = GGUFWriter(path, architecture)
    _add_sizes(writer, model.config)
    if tokenizer:
        _add_tokenizer(writer)
    for name, tensor in model.state_dict().items():
        stored = gguf_name(name)
        if stored in without or (tied and stored == "output.weight"):
            continue
        weights = tensor.numpy()
        if "attn_q" in stored or "attn_k" in stored:
            weights = _interleaved(weights, model.config.num_attention_heads)
        if rounded and weights.ndim == 2:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(stored, quantize(np.ascontiguousarray(weights), kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored, np.ascontiguousarray(weights))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def gguf_name(name: str) -> str:
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    _, _, layer, inside = name.split(".", 3)
    module, _, kind = inside.rpartition(".")
    return f"blk.{layer}.{LAYER_NAMES[module]}.{kind}"


def _interleaved(weights: Any, heads: int) -> Any:
    """The rows of queries and keys in the order of GGUF: the two halves that rotate together side by side."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def _add_sizes(writer: GGUFWriter, config: Any) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: GGUFWriter) -> None:
    ids = make_tokenizer().get_vocab()
    tokens = [*sorted(ids, key=lambda token: ids[token]), MERGED]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] + [NORMAL] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(MERGED)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
