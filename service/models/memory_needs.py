"""Bytes of memory that a job takes, from the headers of its model. Rough on purpose; measures and loads nothing.

V: rows of the head, d: its columns.

- working = 4 float32 copies of the head + 8 float64 matrices of d x d + 600 MB for the process.
- whole = working + the checkpoint. A model of which this is more than there is, is offloaded: read from its files,
  block by block.
- offloaded = working + the largest block + the embeddings and what else is in no block.
"""

import re
from collections import Counter

from service.models.model_files import ModelInspection

PROCESS_BYTES = 600_000_000
# `model.layers.11.mlp.up_proj.weight`: what comes before the first number and the number name the block.
BLOCK = re.compile(r"(?:.*?\.)?\d+(?=\.)")


def working_bytes(vocab_size: int, hidden_size: int) -> int:
    """What the analysis of a head takes, whatever the rest of the model is."""
    return 16 * vocab_size * hidden_size + 64 * hidden_size**2 + PROCESS_BYTES


def offloaded_bytes(model: ModelInspection) -> int:
    """Bytes of the model's own weights: what is held at a time when no block stays."""
    blocks: Counter[str] = Counter()
    outside = 0
    for name, entry in model.tensors.items():
        block = BLOCK.match(name)
        if block:
            blocks[block[0]] += entry.nbytes
        else:
            outside += entry.nbytes
    return outside + max(blocks.values(), default=0)
