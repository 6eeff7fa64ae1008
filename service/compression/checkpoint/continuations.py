"""Greedy continuations of evaluation text, with the full head and with the stored one on the same stored backbone.

Drift of single predictions adds up when a model reads what it wrote; here it shows. Causal models only.
Cost: prompts x (prompt + continuation) tokens through the backbone, twice, both as one batch: a step reads the weights
once.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headroom.contract.report.continuations import ContinuationSample, ContinuationsOfReport, Variety
from service.compression.numerics.bootstrap import interval_of_means
from service.compression.numerics.wide_products import fast_products
from service.compression.states.lm_head import LmHead

PROMPT_TOKENS, NEW_TOKENS = 32, 32  # at most; a short window is halved
REPEATED = 4  # tokens in a row that count as repeated where they come again
SAMPLES = 2  # shown as text

LogitsOf = Callable[[Tensor], Tensor]  # (prompts, positions, hidden) -> what the head module gives for it


@dataclass(frozen=True, eq=False)
class Continuations:
    """Prompts and what both models write after them, each (prompts, tokens) int64."""

    prompts: Tensor
    before: Tensor
    after: Tensor


def continue_text(
    model: Any, windows: Tensor, head: LmHead, count: int, seed: int, progress: Callable[[float], None]
) -> Continuations:
    """Prompts from the text continued with the stored head and with the original, `head`.

    model: the stored one; windows: (windows, window) ids, of which `count` are drawn, seeded.
    """
    length = min(PROMPT_TOKENS, windows.shape[1] // 2)
    tokens = min(NEW_TOKENS, windows.shape[1] - length)
    chosen = torch.randperm(windows.shape[0], generator=torch.Generator().manual_seed(seed))[:count]
    prompts = windows[chosen, :length]
    weight = head.weight.to(model.device).float()
    bias = 0.0 if head.module_bias is None else head.module_bias.to(model.device).float()
    stored = copy.deepcopy(model.get_output_embeddings()).float()  # as it is measured: rounding is the runtime's

    def logits_of(hidden: Tensor) -> Tensor:
        before, after = hidden.float().chunk(2)
        return torch.cat([before @ weight.T + bias, stored(after)])

    before, after = greedy(model, prompts.repeat(2, 1), tokens, logits_of, progress).chunk(2)
    return Continuations(prompts, before, after)


@torch.inference_mode()
def greedy(model: Any, prompts: Tensor, tokens: int, logits_of: LogitsOf, progress: Callable[[float], None]) -> Tensor:
    """(prompts, tokens) the most probable token again and again, past any end token, by `logits_of` for the head."""

    def replaced(module: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return logits_of(arguments[0][:, -1:])

    hook = model.get_output_embeddings().register_forward_hook(replaced)
    try:
        ids, cache, found = prompts.to(model.device), None, []
        for step in range(tokens):
            known: dict[str, Any] = (
                {} if cache is None else {"past_key_values": cache}
            )  # not every model has such an argument
            with fast_products(model):
                output = model(input_ids=ids, use_cache=True, **known)
            cache = getattr(output, "past_key_values", None)
            found.append(output.logits[:, -1].argmax(1, keepdim=True))
            ids = found[-1] if cache is not None else torch.cat([ids, found[-1]], dim=1)
            progress((step + 1) / tokens)
    finally:
        hook.remove()
    return torch.cat(found, dim=1).cpu()


def agreement_lengths(one: Tensor, other: Tensor) -> Tensor:
    """(prompts,) how many tokens are the same before the first that differs."""
    return (one == other).long().cumprod(1).sum(1)


def repetition(tokens: list[int]) -> float:
    """Share of runs of REPEATED tokens that came before in the same text; 0 where it is too short for one."""
    runs = Counter(tuple(tokens[start : start + REPEATED]) for start in range(len(tokens) - REPEATED + 1))
    return 1 - len(runs) / runs.total() if runs else 0.0


def distinct(texts: list[list[int]], n: int) -> float:
    """Different n-grams over all n-grams of all texts (distinct-n, Li et al. 2016)."""
    grams = Counter(tuple(text[start : start + n]) for text in texts for start in range(len(text) - n + 1))
    return len(grams) / grams.total() if grams else 0.0


def continuations_told(found: Continuations, tokenizer: Any, seed: int) -> ContinuationsOfReport:
    """Continuations as the report has them."""
    lengths = agreement_lengths(found.before, found.after)
    low, high = interval_of_means(lengths[:, None].double(), torch.ones(lengths.numel()), seed)
    before, after = found.before.tolist(), found.after.tolist()
    return ContinuationsOfReport(
        prompts=lengths.numel(),
        prompt_tokens=found.prompts.shape[1],
        new_tokens=found.before.shape[1],
        agreement_length_mean=float(lengths.double().mean()),
        agreement_length_low=float(low),
        agreement_length_high=float(high),
        identical=float((lengths == found.before.shape[1]).double().mean()),
        before=_variety(before),
        after=_variety(after),
        samples=tuple(
            ContinuationSample(
                prompt=tokenizer.decode(found.prompts[row]),
                before=tokenizer.decode(before[row]),
                after=tokenizer.decode(after[row]),
                agreement_length=int(lengths[row]),
            )
            for row in range(min(SAMPLES, lengths.numel()))
        ),
    )


def _variety(texts: list[list[int]]) -> Variety:
    repeated = sum(map(repetition, texts)) / len(texts)
    return Variety(repetition=repeated, distinct_1=distinct(texts, 1), distinct_2=distinct(texts, 2))
