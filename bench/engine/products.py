"""A pass of a bfloat16 model as a job runs it, against transformers' own pass and against float32, on one core.

A random GPT-2 and Llama of 13M parameters outside of their embeddings; no trained weights needed. On a CPU with
instructions for bfloat16 the first ratio is 1: nothing is changed there. difference: of the hidden states from those
of float32, relative; both ways round to bfloat16, so both are near 2^-8.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from bench.timing import ratio
from headroom.operator_threads import single_threaded_operators
from service.compression.numerics.wide_products import has_fast_products
from service.compression.states.hidden_states import forward

TOKENS, VOCAB, ROUNDS = 512, 2048, 3
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=384, n_layer=8, n_head=6, n_positions=TOKENS),
    "llama": LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        max_position_embeddings=TOKENS,
    ),
}


def run() -> dict[str, Any]:
    return {"native": has_fast_products(torch.bfloat16)} | {name: _measure(name) for name in CONFIGS}


@torch.inference_mode()
def _measure(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    wide = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.bfloat16).eval()
    model.load_state_dict(wide.state_dict())
    inputs = {"input_ids": torch.arange(TOKENS)[None] % VOCAB}
    expected = forward(wide, inputs).logits
    with single_threaded_operators():
        against_plain, ours, plain = ratio(
            lambda: forward(model, inputs), lambda: model(**inputs, use_cache=False), ROUNDS
        )
        against_float32, _, _ = ratio(lambda: forward(model, inputs), lambda: forward(wide, inputs), ROUNDS)

    def difference(logits: torch.Tensor) -> float:
        return round(float((logits.float() - expected).norm() / expected.norm()), 4)

    return {
        "ratio": round(against_plain, 3),
        "ratio_to_float32": round(against_float32, 2),
        "seconds": round(ours, 3),
        "plain_seconds": round(plain, 3),
        "difference": difference(forward(model, inputs).logits),
        "plain_difference": difference(model(**inputs, use_cache=False).logits),
    }
