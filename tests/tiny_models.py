"""Tiny random models of real classes, with a byte tokenizer, written as checkpoints. Needs torch."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
VOCABULARY = 264  # a few more rows than the tokenizer has ids, as many models have
BEGIN, STOP, MASK, PAD, FIRST_SENTINEL = 257, 258, 259, 260, 261


@dataclass(frozen=True)
class Family:
    """A class of transformers, and what its config calls the sizes. What is not named here has Llama's name."""

    model: str
    config: str
    fields: dict[str, Any] = field(default_factory=dict)
    tied: bool = False  # as the family comes
    reads: str = "text"  # "text", "masks" or "sentinels": which special tokens its tokenizer has


GPT_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.2}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
GEMMA = {"head_dim": 16, "num_key_value_heads": 1, "query_pre_attn_scalar": 16}
PAIRED = {"is_encoder_decoder": True, "decoder_start_token_id": STOP, "pad_token_id": PAD, "eos_token_id": STOP}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "init_std": 0.2,
    "forced_eos_token_id": None,
}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": PAD}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64}

FAMILIES = {
    "gpt2": Family("GPT2LMHeadModel", "GPT2Config", GPT_SIZES, tied=True),
    "neox": Family("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES),
    "gptj": Family("GPTJForCausalLM", "GPTJConfig", GPT_SIZES | {"rotary_dim": 8}),
    "opt": Family(
        "OPTForCausalLM", "OPTConfig", SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2}, True
    ),
    "llama": Family("LlamaForCausalLM", "LlamaConfig", SIZES),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", SIZES | {"num_key_value_heads": 1}, tied=True),
    "qwen3": Family("Qwen3ForCausalLM", "Qwen3Config", SIZES | {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": Family("Gemma2ForCausalLM", "Gemma2Config", SIZES | GEMMA | {"final_logit_softcapping": 5.0}, tied=True),
    "gemma3": Family("Gemma3ForCausalLM", "Gemma3TextConfig", SIZES | GEMMA, tied=True),
    "mistral": Family("MistralForCausalLM", "MistralConfig", SIZES | {"num_key_value_heads": 1}),
    "mixtral": Family(
        "MixtralForCausalLM",
        "MixtralConfig",
        SIZES | {"num_local_experts": 2, "num_key_value_heads": 1, "num_experts_per_tok": 1},
    ),
    "phi": Family("PhiForCausalLM", "PhiConfig", SIZES),
    "cohere": Family("CohereForCausalLM", "CohereConfig", SIZES | {"logit_scale": 0.25, "pad_token_id": 0}, tied=True),
    "bert": Family("BertForMaskedLM", "BertConfig", SIZES | {"pad_token_id": PAD}, tied=True, reads="masks"),
    # Two positions more than it can read: it counts them from the padding token's id on, which is 1 in real ones.
    "roberta": Family(
        "RobertaForMaskedLM", "RobertaConfig", SIZES | {"pad_token_id": 1, "max_position_embeddings": 66}, True, "masks"
    ),
    "distilbert": Family(
        "DistilBertForMaskedLM", "DistilBertConfig", DISTILBERT | {"pad_token_id": PAD}, True, "masks"
    ),
    "bart": Family("BartForConditionalGeneration", "BartConfig", PAIRED | BART, True, "masks"),
    "t5": Family("T5ForConditionalGeneration", "T5Config", PAIRED | T5, True, "sentinels"),
}


def make_tokenizer(positions: int = 64, reads: str = "text") -> PreTrainedTokenizerFast:
    """256 bytes and an end token, and what a family `reads` beside text. Untrained; every text can be encoded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {END: 0} | {letter: index + 1 for index, letter in enumerate(alphabet)}
    special: dict[str, Any] = {"bos_token": END, "eos_token": END}
    if reads != "text":
        special = {"cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        vocabulary |= {"<s>": BEGIN, "</s>": STOP, "<mask>": MASK, "<pad>": PAD}
    if reads == "masks":
        special["mask_token"] = "<mask>"
    if reads == "sentinels":
        vocabulary |= {f"<extra_id_{number}>": FIRST_SENTINEL + number for number in range(3)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if reads != "text":
        around = "<s> $A </s>" if reads == "masks" else "$A </s>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[("<s>", BEGIN), ("</s>", STOP)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=positions, **special)


def make_model(family: str = "gpt2", *, tied: bool | None = None, seed: int = 0, **config: Any) -> Any:
    """Random weights, larger than an initialisation's, so that logits differ between tokens and contexts.

    tied: as the family comes, if left out.
    """
    torch.manual_seed(seed)
    made = FAMILIES[family]
    hidden_size = config.pop("hidden_size", None)
    ends = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    fields = ends | made.fields | {"tie_word_embeddings": made.tied if tied is None else tied} | config
    if hidden_size:
        fields["n_embd" if "n_embd" in fields else "hidden_size"] = hidden_size
    model = getattr(transformers, made.model)(getattr(transformers, made.config)(**fields))
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
            # Norms and biases of a trained model are not ones and zeros.
            if (parameter.ndim == 1 and parameter.requires_grad) or name == "final_logits_bias":
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_tiny_checkpoint(
    folder: Path, family: str = "gpt2", *, dtype: torch.dtype = torch.float32, shard_size: str = "5GB", **fields: Any
) -> Path:
    """A complete model folder: config, weights, tokenizer."""
    make_model(family, **fields).to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    make_tokenizer(reads=FAMILIES[family].reads).save_pretrained(folder)
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
