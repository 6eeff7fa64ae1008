"""Tiny random models of real classes, with a byte tokenizer, written as checkpoints. Needs torch."""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

END = "<|endoftext|>"


def make_tokenizer(positions: int = 64) -> PreTrainedTokenizerFast:
    """256 bytes and an end token: nothing is trained, every text can be encoded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {END: 0} | {letter: index + 1 for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=positions)


def make_model(family: str = "gpt2", *, tied: bool = True, hidden_size: int = 32, seed: int = 0, **config: Any) -> Any:
    """Random weights, larger than an initialisation's, so that logits differ between tokens and contexts."""
    torch.manual_seed(seed)
    shared = {"vocab_size": 264, "tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": 0} | config
    if family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(n_embd=hidden_size, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2, **shared)
        )
    else:
        config_class, model_class = {
            "llama": (LlamaConfig, LlamaForCausalLM),
            "neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
        }[family]
        model = model_class(
            config_class(
                hidden_size=hidden_size,
                intermediate_size=2 * hidden_size,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
                initializer_range=0.2,
                **shared,
            )
        )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases of a trained model are not ones and zeros
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_tiny_checkpoint(
    folder: Path, family: str = "gpt2", *, dtype: torch.dtype = torch.float32, shard_size: str = "5GB", **fields: Any
) -> Path:
    """A complete model folder: config, weights, tokenizer."""
    make_model(family, **fields).to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_text(characters: int = 12_000, seed: int = 0) -> str:
    """Words drawn with a Zipf-like law: enough structure for statistics, no text of anybody."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("etaoinshrdlu", k=generator.randint(1, 7))) for _ in range(400)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    lines: list[str] = []
    while sum(map(len, lines)) < characters:
        lines.append(" ".join(generator.choices(words, weights, k=12)) + ".\n")
    return "".join(lines)[:characters]
