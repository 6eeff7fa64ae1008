"""h, the input of lm_head, with the forward pass stopped there: the full head is never computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from service.compression.numerics.wide_products import fast_products
from service.foundation.errors import UnsupportedHead

HiddenStatesOf: TypeAlias = Callable[[dict[str, Tensor]], Tensor]  # inputs -> (windows, positions, hidden)


class _Stop(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def _stop(module: Any, args: tuple[Tensor, ...]) -> None:
    raise _Stop(args[0])


@contextmanager
def stopped_at_lm_head(model: Any) -> Iterator[HiddenStatesOf]:
    """Gives a function inputs (each (windows, length)) -> h (windows, positions, hidden), in the model's dtype.

    Inside, the model cannot be used in any other way; the function may be called from several threads at once.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(_stop)

    def hidden_states(inputs: dict[str, Tensor]) -> Tensor:
        try:
            forward(model, inputs)
        except _Stop as stop:
            return stop.hidden
        raise UnsupportedHead("the model computes its logits without calling its output matrix: it is no plain head")

    try:
        yield hidden_states
    finally:
        hook.remove()


@torch.inference_mode()
def hidden_states_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """States that reach the head. inputs: (windows, length) each -> (windows, positions, hidden), the model's dtype."""
    with stopped_at_lm_head(model) as hidden_states:
        return hidden_states(inputs)


def forward(model: Any, inputs: dict[str, Tensor]) -> Any:
    """The model's own output. Nothing is kept for the next token: there is none."""
    kept = {"use_cache": False} if model.can_generate() else {}  # an encoder knows no such argument
    with fast_products(model):
        return model(**{name: rows.to(model.device) for name, rows in inputs.items()}, **kept)
