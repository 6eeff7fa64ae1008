"""h, the input of lm_head, with the forward pass stopped there: the full head is never computed."""

from typing import Any

import torch
from torch import Tensor


class _Stop(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def _stop(module: Any, args: tuple[Tensor, ...]) -> None:
    raise _Stop(args[0])


@torch.inference_mode()
def hidden_states_of(model: Any, input_ids: Tensor) -> Tensor:
    """input_ids: (windows, length) -> (windows, length, hidden), in the model's dtype, on its device."""
    hook = model.get_output_embeddings().register_forward_pre_hook(_stop)
    try:
        model(input_ids=input_ids, use_cache=False)
    except _Stop as stop:
        return stop.hidden
    finally:
        hook.remove()
    raise AssertionError("the forward pass never reached the output embedding")
