"""headroom's modules as children of vLLM's layers: built with this rank's rows, filled by vLLM's loader, checked."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.utils import set_weight_attrs

from headroom.loading.head import SlicedEmbedding, SlicedHead
from headroom.loading.planes_format import PLANES
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead
from headroom.loading.quantized_head import PackedHead, QuantizedHead, RoundedHead
from headroom.vllm.planes import is_planes, planes_head, planes_table

ROUNDED: dict[str, type[RoundedHead]] = {"int8": QuantizedHead, "int4": PackedHead}
HEAD_DTYPES = ("source", *ROUNDED)
# Tensors with a row for each token: vLLM's loader gives each rank its own. The others are on every rank.
BY_ROW = ("weight", "weight_rest", "bias", "quantized", "scale", "packed", "group_scale", *PLANES)


def build_head(
    fields: dict[str, Any], rows: int, table: PlanesEmbedding | None = None
) -> SlicedHead | RoundedHead | PlanesHead:
    """The head's module, empty. fields: `quantization_config`; rows: of this rank; table: whose planes it reads."""
    if is_planes(fields):
        return planes_head(fields, rows, table)
    sizes = (fields["hidden_size"], rows, fields["kept_columns"])
    rounded = ROUNDED.get(fields.get("head_dtype", "source"))
    if rounded is not None:
        return rounded(*sizes, bias=fields["bias"])
    return SlicedHead(*sizes, permutation=fields["permutation"], bias=fields["bias"])


def build_table(fields: dict[str, Any], rows: int) -> SlicedEmbedding | PlanesEmbedding:
    """The input table's module, empty and not scaled: scaling is left to vLLM's code of the architecture."""
    if is_planes(fields):
        return planes_table(fields, rows)
    sizes = (rows, fields["hidden_size"], fields["kept_columns"])
    return SlicedEmbedding(*sizes, permutation=fields["permutation"], scale=1.0, padding_idx=None)


def adopt(layer: nn.Module, name: str, module: nn.Module, weight_loader: Callable[[Tensor, Tensor], None]) -> None:
    """Make `module` a child whose tensors `weight_loader` fills. Its tensors are marked once they are."""

    def load(tensor: Tensor, loaded: Tensor) -> None:
        weight_loader(tensor, loaded)
        tensor.is_loaded = True  # type: ignore[attr-defined]

    for key, tensor in tensors_of(module).items():
        set_weight_attrs(tensor, {"weight_loader": load} | ({"output_dim": 0} if key in BY_ROW else {}))
    layer.add_module(name, module)


def require_loaded(module: nn.Module, place: str) -> None:
    """ValueError unless the checkpoint had every tensor: vLLM itself would go on with whatever was in memory."""
    missing = [key for key, tensor in tensors_of(module).items() if not hasattr(tensor, "is_loaded")]
    if missing:
        raise ValueError(
            f"this headroom checkpoint did not give vLLM {', '.join(missing)} of {place}: its files are not complete, "
            "or vLLM reads this architecture in a way that headroom's plugin does not know"
        )


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
