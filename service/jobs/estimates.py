"""What a job will cost and save, from the headers of a model alone. Rough on purpose; measures and loads nothing.

V: rows of the head, d: its columns, k: columns kept, b: bytes of one weight, P: parameters, T: tokens read, E: tokens
evaluated, of all corpora together.

- head_bytes_after = b (V k + V) + basis: the kept columns and the repaired bias, and what maps a hidden state to
  them: b k d for a general basis, 8 k for a permutation. With 8-bit columns V k + 4 V + b (V + k d), with 4-bit ones
  V (k / 2 + 2 ceil(k / 32)) + b (V + k d). In bit planes, of which c columns are whole and m rows are rescored,
  V (c + (d - c) / 2 + 2 ceil(d / 32)) + m (d + 2 ceil(d / 32)) + b d d. This is what the head reads for each token,
  tied or not; a tied model's file does not shrink by columns, since its embedding keeps the others.
- seconds = (2 P T [backbone] + 4 V d T [two passes of the sweep] + 2 P E [validation, of each stored checkpoint]
  + 60 d^3 [decompositions]) / 3e10, for each model of the job, + 10: one CPU core and the start of a process. A GPU
  takes a small part of it.
- memory_bytes and least_memory_bytes: service/models/memory_needs.py, with the model held whole and offloaded.
- T counts 4 bytes of text for a token, up to what the recipe asks for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headroom.contract.compare import CompareRecipe
from headroom.contract.compress import CompressRecipe, Method
from headroom.contract.recipe import Recipe
from service.foundation.errors import UnsupportedHead, UnsupportedModel
from service.models.column_counts import checked_kept_columns
from service.models.head_bytes import HeadShape
from service.models.memory_needs import offloaded_bytes, working_bytes
from service.models.model_files import ModelInspection
from service.models.safetensors_header import DTYPE_BITS
from service.publishing.revisions import revision_sizes

BYTES_PER_TOKEN = 4
FLOPS_PER_SECOND = 3e10
START_SECONDS = 10.0
GENERAL_BASES = frozenset({Method.PCA, Method.ACTIVATION, Method.PROBABILITY})
WITHOUT_LM_HEAD = ("Classification", "QuestionAnswering", "MultipleChoice")
CONFIG_DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class HeadFacts:
    """The output head as the files show it."""

    vocab_size: int
    hidden_size: int
    is_tied: bool
    weight_bytes: int  # of one weight

    @property
    def nbytes(self) -> int:
        return self.vocab_size * self.hidden_size * self.weight_bytes


@dataclass(frozen=True)
class Estimate:
    """What a job would take and give; None where only measuring can tell, as for the ratio `auto`."""

    kept_columns: int | None
    head_bytes_after: int | None
    seconds: float
    memory_bytes: int
    least_memory_bytes: int  # with the model offloaded, which makes the job slower


def head_facts(model: ModelInspection) -> HeadFacts:
    """UnsupportedModel for what plainly predicts no tokens; UnsupportedHead when no head can be made out."""
    architecture = model.config["architectures"][0]
    if architecture.endswith(WITHOUT_LM_HEAD):
        raise UnsupportedModel(f"{architecture} predicts no tokens; use a causal, masked or encoder-decoder model")
    if model.vocab_size is None or model.hidden_size is None:
        raise UnsupportedHead("config.json and the tensor names do not tell where the output head is")
    if model.head:
        weight_bytes = DTYPE_BITS[model.tensors[model.head].dtype] // 8
    else:
        weight_bytes = CONFIG_DTYPE_BYTES.get(model.dtype, 2)
    return HeadFacts(model.vocab_size, model.hidden_size, model.is_tied, max(weight_bytes, 1))


def estimate(recipe: Recipe, model: ModelInspection, corpus_bytes: Sequence[int]) -> Estimate:
    """corpus_bytes: of each of recipe.corpora. RatioTooSmall if a ratio would remove nothing. Formulas: above."""
    head = head_facts(model)
    slicing = recipe if isinstance(recipe, CompressRecipe) else None
    kept = _kept(slicing, head) if slicing else None
    if slicing:
        revision_sizes(slicing, head.hidden_size)
    held = 2 if isinstance(recipe, CompareRecipe) else 1  # models at a time
    working = working_bytes(head.vocab_size, head.hidden_size)
    return Estimate(
        kept_columns=kept,
        head_bytes_after=_head_bytes(head, kept, slicing) if slicing and kept else None,
        seconds=round(_seconds(recipe, model, head, corpus_bytes), 1),
        memory_bytes=held * model.nbytes + working,
        least_memory_bytes=held * offloaded_bytes(model) + working,
    )


def _kept(recipe: CompressRecipe, head: HeadFacts) -> int | None:
    if recipe.head_dtype == "planes":
        return head.hidden_size
    if recipe.ratio == "auto":
        return None
    return checked_kept_columns(head.hidden_size, recipe.ratio, recipe.options.column_multiple)


def _head_bytes(head: HeadFacts, kept: int, recipe: CompressRecipe) -> int:
    permutation, in_planes = recipe.method not in GENERAL_BASES, recipe.head_dtype == "planes"
    shape = HeadShape(head.vocab_size, head.hidden_size, head.weight_bytes, bias=not in_planes, permutation=permutation)
    if recipe.head_dtype == "planes":
        return shape.planes_nbytes(recipe.planes.bits, recipe.planes.rescored, recipe.planes.whole_columns)
    return shape.nbytes(kept, recipe.head_dtype)


def _seconds(recipe: Recipe, model: ModelInspection, head: HeadFacts, corpus_bytes: Sequence[int]) -> float:
    available = [count // BYTES_PER_TOKEN for count in corpus_bytes]
    evaluated = sum(min(recipe.options.evaluation_tokens, tokens) for tokens in available)
    read = evaluated + min(recipe.options.calibration_tokens, max(available[0] - recipe.options.evaluation_tokens, 0))
    parameters = sum(math.prod(entry.shape) for entry in model.tensors.values())
    stored = 1 + len(recipe.options.publish_ratios) if isinstance(recipe, CompressRecipe) else 1
    operations = (
        2 * parameters * read
        + 4 * head.vocab_size * head.hidden_size * read
        + 2 * parameters * evaluated * stored
        + 60 * head.hidden_size**3
    )
    return (1 + len(recipe.other_models)) * operations / FLOPS_PER_SECOND + START_SECONDS
