"""h, the input of lm_head, with the forward pass stopped there: the full head is never computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class _Stop(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def _stop(module: Any, args: tuple[Tensor, ...]) -> None:
    raise _Stop(args[0])


@contextmanager
def stopped_at_lm_head(model: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """Gives a function input_ids (windows, length) -> h (windows, length, hidden), in the model's dtype.

    Inside, the model cannot be used in any other way; the function may be called from several threads at once.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(_stop)

    def hidden_states(input_ids: Tensor) -> Tensor:
        try:
            model(input_ids=input_ids.to(model.device), use_cache=False)
        except _Stop as stop:
            return stop.hidden
        raise AssertionError("the forward pass never reached the output embedding")

    try:
        yield hidden_states
    finally:
        hook.remove()


@torch.inference_mode()
def hidden_states_of(model: Any, input_ids: Tensor) -> Tensor:
    """input_ids: (windows, length) -> (windows, length, hidden), in the model's dtype, on its device."""
    with stopped_at_lm_head(model) as hidden_states:
        return hidden_states(input_ids)
