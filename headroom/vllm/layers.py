"""The sliced head and the input table as quantization methods of vLLM's layers with a row for each token.

The arithmetic is that of headroom/loading: its modules are children of vLLM's layers, which share rows out among ranks,
gather logits and drop the padding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm, dispatch_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.utils import set_weight_attrs
from vllm.platforms import current_platform

from headroom.loading.head import SlicedHead
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead
from headroom.vllm.modules import adopt, build_head, build_table, require_loaded
from headroom.vllm.planes import asked_settings, is_planes, settle

HEAD, TABLE, HEAD_IN_TABLE = "sliced", "sliced", "sliced_head"  # names of our modules below vLLM's layers


class HeadMethod(QuantizeMethodBase):  # type: ignore[misc]  # vLLM is not there when types are checked
    """Quantization method of a layer for the head: `layer.sliced` gives the logits."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.asked = asked_settings() if is_planes(fields) else {}

    def create_weights(
        self,
        layer: VocabParallelEmbedding,
        input_size: int,
        row_parts: list[int],
        *sizes: int,
        params_dtype: torch.dtype,
        weight_loader: Callable[[Tensor, Tensor], None],
        **attributes: Any,
    ) -> None:
        if self.fields["tied"] and is_planes(self.fields):
            return  # all of it is in the table, which tie_weights tells
        adopt(layer, HEAD, build_head(self.fields, rows_of(layer, self.fields)).to(params_dtype), weight_loader)

    def process_weights_after_loading(self, layer: VocabParallelEmbedding) -> None:
        if not hasattr(layer, HEAD):
            raise ValueError(
                "this checkpoint's head reads the input table, but vLLM did not tie the two: headroom's plugin cannot "
                "serve this architecture; load it with transformers"
            )
        require_loaded(layer.sliced, layer.prefix or "the head")
        prepare(layer.sliced, self.asked)
        layer.__dict__["weight"] = shown_weight(layer.sliced)

    def apply(self, layer: VocabParallelEmbedding, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(positions, hidden) -> logits (positions, rows of this rank). `bias` is the module's own, if there is one."""
        return logits(layer, layer.sliced, x)

    def tie_weights(
        self, layer: VocabParallelEmbedding, embed_tokens: VocabParallelEmbedding
    ) -> VocabParallelEmbedding:
        """The head reads the columns of the input table that it keeps."""
        if not self.fields["tied"]:
            return layer
        table = embed_tokens.sliced
        if not is_planes(self.fields):
            layer.sliced.weight = table.weight
            return layer
        head = build_head(self.fields, table.num_embeddings, table).to(table.basis.dtype)
        adopt(layer, HEAD, head, layer.weight_loader)
        return layer


class TableMethod(QuantizeMethodBase):  # type: ignore[misc]
    """Quantization method of the input embedding, and of the head where the architecture has no layer for it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.asked = asked_settings() if is_planes(fields) else {}

    def hold_head(self, layer: VocabParallelEmbedding) -> None:
        """Give the table a head of its own. Memory: the head's tensors that are not the table's."""
        table = self._table(layer)
        weight = shown_weight(table)
        planes = table if self.fields["tied"] and isinstance(table, PlanesEmbedding) else None
        with torch.device(weight.device):
            head = build_head(self.fields, rows_of(layer, self.fields), planes).to(weight.dtype)
        adopt(layer, HEAD_IN_TABLE, head, layer.weight_loader)
        if self.fields["tied"] and planes is None:
            head.weight = weight

    def process_weights_after_loading(self, layer: VocabParallelEmbedding) -> None:
        if hasattr(layer, HEAD_IN_TABLE):
            require_loaded(layer.sliced_head, "the head")
            prepare(layer.sliced_head, self.asked)

    def apply(self, layer: VocabParallelEmbedding, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if not hasattr(layer, HEAD_IN_TABLE):
            raise ValueError(
                "vLLM asks the input embedding for logits, but this checkpoint's head was not loaded there: "
                "headroom's plugin cannot serve this architecture; load it with transformers"
            )
        return logits(layer, layer.sliced_head, x)

    def _table(self, layer: VocabParallelEmbedding) -> nn.Module:
        """What holds the rows."""
        raise NotImplementedError


class SlicedTableMethod(TableMethod):
    """Method of a tied table: it is in the basis of the head, which shares the columns that are kept."""

    def create_weights(
        self,
        layer: VocabParallelEmbedding,
        input_size: int,
        row_parts: list[int],
        *sizes: int,
        params_dtype: torch.dtype,
        weight_loader: Callable[[Tensor, Tensor], None],
        **attributes: Any,
    ) -> None:
        layer._parameters.pop(
            "weight", None
        )  # vLLM's Transformers backend turns an embedding that has one into its own
        adopt(layer, TABLE, build_table(self.fields, rows_of(layer, self.fields)).to(params_dtype), weight_loader)

    def process_weights_after_loading(self, layer: VocabParallelEmbedding) -> None:
        require_loaded(layer.sliced, layer.prefix or "the input embedding")
        layer.__dict__["weight"] = shown_weight(layer.sliced)
        super().process_weights_after_loading(layer)

    def embedding(self, layer: VocabParallelEmbedding, ids: Tensor) -> Tensor:
        embeddings: Tensor = layer.sliced(ids)
        return embeddings

    def _table(self, layer: VocabParallelEmbedding) -> nn.Module:
        table: nn.Module = layer.sliced
        return table


class PlainTableMethod(TableMethod):
    """Method of an untied table, the source's own. vLLM's own method would give logits from it."""

    def create_weights(
        self,
        layer: VocabParallelEmbedding,
        input_size: int,
        row_parts: list[int],
        *sizes: int,
        params_dtype: torch.dtype,
        **attributes: Any,
    ) -> None:
        table = nn.Parameter(torch.empty(sum(row_parts), input_size, dtype=params_dtype), requires_grad=False)
        set_weight_attrs(table, {"input_dim": 1, "output_dim": 0} | attributes)
        layer.register_parameter("weight", table)

    def embedding(self, layer: VocabParallelEmbedding, ids: Tensor) -> Tensor:
        return F.embedding(ids, layer.weight)

    def _table(self, layer: VocabParallelEmbedding) -> nn.Module:
        own: nn.Module = layer
        return own


class ConfiguredVocabEmbedding(VocabParallelEmbedding):  # type: ignore[misc]
    """vLLM's layer, which finds the config itself where a model does not pass it, as two thirds do not."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **with_config(args, kwargs, position=5))


class ConfiguredLMHead(ParallelLMHead):  # type: ignore[misc]
    """vLLM's layer for the head, which finds the config itself. Its bias is the one of the sliced head."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **with_config(args, kwargs, position=6))

    def _register_bias(self) -> None:
        if isinstance(self.quant_method, HeadMethod):
            self.bias = self.sliced.bias
        else:
            super()._register_bias()


def with_config(args: tuple[Any, ...], kwargs: dict[str, Any], position: int) -> dict[str, Any]:
    """kwargs with headroom's config, where the current model has it and no config was given."""
    # Imported late: it imports this module.
    from headroom.vllm.quantization import HeadroomQuantization

    current = get_current_vllm_config().quant_config
    if not isinstance(current, HeadroomQuantization) or len(args) > position:
        return kwargs
    return kwargs | {"quant_config": kwargs.get("quant_config") or current}


def prepare(head: nn.Module, asked: dict[str, int]) -> None:
    """Do, once the head is loaded, what vLLM does with an ordinary one; settle one in planes."""
    if isinstance(head, PlanesHead):
        settle(head, asked)
    elif current_platform.is_cpu() and isinstance(head, SlicedHead):
        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def shown_weight(module: Any) -> Tensor:
    """The tensor that vLLM's code finds as a layer's `weight`; LoRA's asks it for its dtype and device."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, nn.Parameter):
        return weight
    basis: Tensor = module.table.basis if isinstance(module, PlanesHead) else module.basis
    return basis


def rows_of(layer: VocabParallelEmbedding, fields: dict[str, Any]) -> int:
    """How many rows this rank has: with vLLM's padding, but not in planes, which would rescore rows of zeros."""
    rows: int = layer.shard_indices.num_org_elements if is_planes(fields) else layer.num_embeddings_per_partition
    return rows


def logits(layer: VocabParallelEmbedding, head: nn.Module, x: Tensor) -> Tensor:
    """The head's forward pass, with the product of its columns by vLLM's own kernel where they are not integers."""
    if not isinstance(head, SlicedHead):
        return F.pad(head(x), (0, layer.num_embeddings_per_partition - head.out_features))
    columns = x.index_select(-1, head.keep_columns) if head.permutation else F.linear(x, head.basis)
    product: Tensor = dispatch_unquantized_gemm()(head, columns, head.weight, head.bias)
    return product
