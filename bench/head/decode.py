"""Tokens a second of a whole model with a head in planes over the model as it came, in bfloat16, decoded in turns.

Every model of HEADROOM_BENCH_MODELS (default: .models of this checkout, which `make models` fills). The codes are the
nearest in an orthogonal basis that nothing was fitted to: time does not depend on them, and quality is `frontier`'s.
Tied models read their input rows from the planes, as their checkpoints do. Both models go on from the same prompt with
their own greedy tokens and a cache of keys and values; a step of one and a step of the other take turns, so that a busy
machine slows both. head_over_full: the head alone, within the same steps. compiled: both by torch.compile (it takes a
C++ compiler and a minute), with caches of a fixed size; the head's own time cannot be told there.
"""

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Cache, StaticCache

from bench.folders import MODELS
from bench.timing import seconds
from headroom.loading import plane_codes
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead, PlanesTable

BATCHES, RESCORED = (1, 8), (256, 1024)
PROMPT, STEPS, WARM = 16, 32, 4
WHOLE = 32  # columns, as a job takes


def run() -> dict[str, Any]:
    paths = sorted({config.parent for config in MODELS.rglob("config.json")}) if MODELS.is_dir() else []
    if not paths:
        raise SystemExit("bench decode needs the models of `make models`, or HEADROOM_BENCH_MODELS")
    found = {path.name: _measure(path) for path in paths}
    return {"device": "cpu", "threads": torch.get_num_threads(), "models": found}


def _measure(path: Path) -> dict[str, Any]:
    source, own = _load(path), _load(path)
    _put_in_planes(own)
    head = own.get_output_embeddings()
    figures: dict[str, dict[str, float | str]] = {}
    for batch in BATCHES:
        for rescored in RESCORED:
            head.read(4, rescored, head.columns)
            figures[f"batch {batch}, {rescored} rescored"] = _figures(source, own, batch)
    for rescored in RESCORED:
        head.read(4, rescored, head.columns)
        figures[f"batch 1, {rescored} rescored, compiled"] = _figures_compiled(source, own)
    _print_table(path.name, figures)
    return {"shape": [head.out_features, head.in_features], "steps": STEPS, "figures": figures}


def _load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()


def _put_in_planes(model: Any) -> None:
    """The head, and the input table where they are one."""
    plain = model.get_output_embeddings()
    vocab, hidden = plain.weight.shape
    tied = model.get_input_embeddings().weight is plain.weight
    table = _embedding(model.get_input_embeddings()) if tied else None
    head = PlanesHead(hidden, vocab, hidden, WHOLE, bits=4, rescored=RESCORED[0], bias=False, table=table)
    holder = head if table is None else table
    _round_into(holder, plain.weight.detach())
    holder.to(model.dtype)
    head.prepare()
    if table is not None:
        model.set_input_embeddings(table)
    model.set_output_embeddings(head)


def _embedding(plain: Any) -> PlanesEmbedding:
    """Gemma's scales its rows."""
    vocab, hidden = plain.weight.shape
    scale = float(getattr(plain, "embed_scale", 1.0))
    return PlanesEmbedding(hidden, vocab, WHOLE, unbasis=False, scale=scale, padding_idx=plain.padding_idx)


@torch.no_grad()
def _round_into(table: PlanesTable, weight: torch.Tensor) -> None:
    hidden = weight.shape[1]
    basis = torch.linalg.qr(torch.randn(hidden, hidden, generator=torch.Generator().manual_seed(0))).Q
    table.basis.copy_(basis)
    for rows in plane_codes.blocks_of(weight.shape[0], plane_codes.ROWS_AT_ONCE):
        codes, scales = plane_codes.round_to_codes(weight[rows].float() @ basis.T)
        planes = plane_codes.split(codes, WHOLE)
        table.whole[rows], table.high[rows], table.low[rows] = planes.whole, planes.high, planes.low
        table.scales[rows] = scales.view(torch.int16)


@torch.inference_mode()
def _figures(source: Any, own: Any, batch: int) -> dict[str, float | str]:
    heads = [_TimedHead(model.get_output_embeddings()) for model in (source, own)]
    before, after = _step_milliseconds([_Decoding(model, _prompt(batch)) for model in (source, own)])
    head_before, head_after = (head.milliseconds() for head in heads)
    return {
        "tokens_per_second_over_source": round(before / after, 3),
        "head_over_full": round(head_after / head_before, 3),
        "step_ms": round(after, 2),
        "step_ms_of_source": round(before, 2),
        "head_ms": round(head_after, 2),
        "head_ms_of_source": round(head_before, 2),
        "way": own.get_output_embeddings().products.ways[batch, "bfloat16"],
    }


@torch.inference_mode()
def _figures_compiled(source: Any, own: Any) -> dict[str, float | str]:
    torch.compiler.reset()  # guards of the graph of another setting would be looked at before this one's
    before, after = _step_milliseconds([_CompiledDecoding(model, _prompt(1)) for model in (source, own)])
    return {
        "tokens_per_second_over_source": round(before / after, 3),
        "step_ms": round(after, 2),
        "step_ms_of_source": round(before, 2),
    }


def _prompt(batch: int) -> torch.Tensor:
    return torch.randint(10, 1000, (batch, PROMPT), generator=torch.Generator().manual_seed(batch))


def _step_milliseconds(runs: "list[_Decoding]") -> list[float]:
    """Medians of the steps, without the first ones."""
    taken = [[seconds(run.step) for run in runs] for _ in range(WARM + STEPS)][WARM:]
    return [1e3 * median(steps) for steps in zip(*taken, strict=True)]


class _Decoding:
    """One model that goes on from a prompt."""

    def __init__(self, model: Any, prompt: torch.Tensor, cache: Cache | None = None) -> None:
        self._forward = model
        answer = model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._past, self._token = answer.past_key_values, answer.logits[:, -1:].argmax(-1)

    def step(self) -> None:
        answer = self._forward(self._token, past_key_values=self._past, use_cache=True)
        self._past, self._token = answer.past_key_values, answer.logits[:, -1:].argmax(-1)


class _CompiledDecoding(_Decoding):
    """The same, of which a step is compiled, while the prompt is read as ever."""

    def __init__(self, model: Any, prompt: torch.Tensor) -> None:
        longest = PROMPT + WARM + STEPS
        super().__init__(model, prompt, StaticCache(config=model.config.get_text_config(), max_cache_len=longest))
        self._forward = torch.compile(model.forward)


class _TimedHead:
    """How long each call of a head takes."""

    def __init__(self, head: torch.nn.Module) -> None:
        self._taken, self._begun = list[float](), 0.0
        self._hooks = [head.register_forward_pre_hook(self._begin), head.register_forward_hook(self._end)]

    def milliseconds(self) -> float:
        """The median without the first calls, of which one is the prompt's; calls are timed no longer."""
        for hook in self._hooks:
            hook.remove()
        return 1e3 * median(self._taken[1 + WARM :])

    def _begin(self, *_: Any) -> None:
        self._begun = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self._taken.append(time.perf_counter() - self._begun)


def _print_table(name: str, figures: dict[str, dict[str, float | str]]) -> None:
    lines = [f"\n{name}: {'':22} tokens/s over source   head over full   step, ms (source)   head, ms (source)   way"]
    for label, row in figures.items():
        line = f"  {label:32}{row['tokens_per_second_over_source']:12}{row.get('head_over_full', ''):18}"
        line += f"{row['step_ms']:12} ({row['step_ms_of_source']})"
        if "head_ms" in row:
            line += f"{row['head_ms']:12} ({row['head_ms_of_source']})   {row['way']}"
        lines.append(line)
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()
