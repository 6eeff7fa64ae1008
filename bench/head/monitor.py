"""What the drift monitor costs: decoding with it over decoding without it, at a sample rate of 1 %.

A model of GPT-2's shape with random weights (V 50257, d 768, 12 layers, tied, float32, half of the columns kept), 128
tokens decoded one at a time with a cache. With and without take turns; see bench/timing.py.
"""

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import headroom
from bench.timing import ratio
from headroom.loading.head import SlicedEmbedding, SlicedHead

TOKENS, ROUNDS, RATE = 128, 9, 0.01


def run() -> dict[str, Any]:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _sliced(GPT2Config()).to(device).eval()
    counts: list[int] = []  # positions sampled in each round

    def watched() -> None:
        with headroom.monitor(model, RATE, seed=len(counts)) as watch:
            _decode(model, device)
        counts.append(watch.stats.positions)

    found, with_it, without = ratio(watched, lambda: _decode(model, device), rounds=ROUNDS)
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "monitored_over_plain": round(found, 4),
        "sampled_share": round(sum(counts) / (TOKENS * len(counts)), 4),
        "milliseconds_per_token": {
            "monitored": round(1e3 * with_it / TOKENS, 2),
            "plain": round(1e3 * without / TOKENS, 2),
        },
    }


@torch.inference_mode()
def _decode(model: Any, device: torch.device) -> None:
    token = torch.tensor([[17]], device=device)
    past = None
    for _ in range(TOKENS):
        answer = model(token, past_key_values=past, use_cache=True)
        past, token = answer.past_key_values, answer.logits[:, -1:].argmax(-1)


def _sliced(config: GPT2Config) -> Any:
    """A tied model whose head reads half of a permuted table, put together without files."""
    model = GPT2LMHeadModel(config)
    size, kept = config.hidden_size, config.hidden_size // 2
    order = torch.randperm(size)
    table = model.get_input_embeddings().weight.detach()[:, order]
    embedding = SlicedEmbedding(config.vocab_size, size, kept, permutation=True, scale=1.0, padding_idx=None)
    embedding.weight.copy_(table[:, :kept])
    embedding.weight_rest.copy_(table[:, kept:])
    embedding.inverse_order.copy_(order.argsort())
    head = SlicedHead(size, config.vocab_size, kept, permutation=True, bias=False, held=size)
    head.weight = embedding.weight
    head.keep_columns.copy_(order[:kept])
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(head)
    model.config.quantization_config = None
    return model
