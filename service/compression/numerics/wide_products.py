"""Matrix products of 16-bit models in float32, on a CPU that has no instructions for them.

There torch multiplies 16-bit numbers one by one: a pass of a 13M model over 512 tokens took 4.7 s on a core with
AVX2, 0.2 s with each product's operands widened for its own time and the result rounded back (`bench products`).
The rounding is that of hardware with such instructions, which sums in float32 too; weights and hidden states stay
as small as they are. Costs a float32 copy of one weight at a time, in each thread.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
# Whole and in parts: without gradients torch hands over `linear` and `matmul` as they are, else what they are made of.
PRODUCTS = {
    _aten.linear,
    _aten.matmul,
    _aten.mm,
    _aten.addmm,
    _aten.bmm,
    _aten.baddbmm,
    _aten.convolution,
    _aten.scaled_dot_product_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu,
}


class WideProducts(TorchDispatchMode):
    """A context in whose thread products of tensors of `dtype` are computed in float32 and rounded back."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in PRODUCTS or not any(map(self._is_narrow, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        found = func(*map(self._widened, args), **{name: self._widened(value) for name, value in kwargs.items()})
        return tuple(map(self._rounded, found)) if isinstance(found, tuple) else self._rounded(found)

    def _is_narrow(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype == self._dtype

    def _widened(self, value: Any) -> Any:
        return value.float() if self._is_narrow(value) else value

    def _rounded(self, value: Any) -> Any:
        return value.to(self._dtype) if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def fast_products(model: Any) -> AbstractContextManager[Any]:
    """A context to run `model` in: WideProducts where its dtype would be slow on its device, else nothing."""
    if model.device.type == "cpu" and not has_fast_products(model.dtype):
        return WideProducts(model.dtype)
    return nullcontext()


def has_fast_products(dtype: torch.dtype) -> bool:
    """Whether torch multiplies matrices of `dtype` on this CPU by its instructions."""
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype not in supported or bool(supported[dtype]())
