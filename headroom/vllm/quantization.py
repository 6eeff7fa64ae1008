"""`quantization_config` of a headroom checkpoint as vLLM's quantization config: which layer gets which tensors."""

import re
import weakref
from typing import Any, NoReturn

import torch
from torch import nn
from vllm.distributed import get_pp_group
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.utils import WeightsMapper

from headroom.loading.head import FORMAT_VERSION
from headroom.loading.planes_format import PLANES_VERSION
from headroom.vllm.layers import HEAD, HEAD_IN_TABLE, TABLE, HeadMethod, PlainTableMethod, SlicedTableMethod
from headroom.vllm.modules import HEAD_DTYPES
from headroom.vllm.planes import check_fields, is_planes

ONLY_FOR_OTHER_COLUMNS = ("triangle", "mean_hidden")  # tensors that reading another number of columns needs


# Names in restore.safetensors: without an index, vLLM reads every safetensors file of a folder.
ONLY_TO_RESTORE = re.compile(r"^(weight_rest|rotation|inverse_order)$|^bias\.")


class HeadroomQuantization(QuantizationConfig):  # type: ignore[misc]  # vLLM is not there when types are checked
    """The config of one model that is loaded. Remembers the layers built for it, to know which is the head."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__()
        if fields["version"] not in (FORMAT_VERSION, PLANES_VERSION):
            raise ValueError(
                f"this checkpoint is of headroom format {fields['version']}, this plugin reads {FORMAT_VERSION} and "
                f"{PLANES_VERSION}: install the headroom-lm release named in its README"
            )
        if is_planes(fields):
            check_fields(fields)
        if fields.get("head_dtype", "source") not in HEAD_DTYPES:
            raise ValueError(f"this plugin does not read heads of {fields['head_dtype']}: install a newer headroom-lm")
        self.fields = fields
        # Weak, so that a copy of the config is no copy of the layers.
        self._head: weakref.ref[Any] | None = None
        self._table: weakref.ref[Any] | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HeadroomQuantization":
        return cls(config)

    def get_name(self) -> str:
        return "headroom"

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_head": None, "_table": None}  # vLLM sends configs to its workers before layers exist

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """The method for a layer; None leaves it as vLLM has it."""
        if isinstance(layer, LinearBase):
            return UnquantizedLinearMethod()
        if not isinstance(layer, VocabParallelEmbedding):
            return None
        sizes = (self.fields["vocab_size"], self.fields["hidden_size"])
        if (layer.org_vocab_size, layer.embedding_dim) != sizes:
            if isinstance(layer, ParallelLMHead):
                self._refuse(layer, prefix)
            return None
        if isinstance(layer, ParallelLMHead):
            self._head = weakref.ref(layer)
            return HeadMethod(self.fields)
        self._table = weakref.ref(layer)
        return SlicedTableMethod(self.fields) if self.fields["tied"] else PlainTableMethod(self.fields)

    def _refuse(self, layer: VocabParallelEmbedding, prefix: str) -> NoReturn:
        raise ValueError(
            f"vLLM builds {prefix or 'the head'} of this architecture with {layer.org_vocab_size} x "
            f"{layer.embedding_dim} entries, the checkpoint's has {self.fields['vocab_size']} x "
            f"{self.fields['hidden_size']}: headroom's plugin cannot serve it; load it with transformers"
        )

    def get_checkpoint_weight_mapper(self) -> WeightsMapper:
        """Renaming of the checkpoint's tensors. Called once the model is built, so that the head's layer is known."""
        return FirstMapper(orig_to_new_regex=self._names())

    def _names(self) -> dict[re.Pattern[str], str | None]:
        head, table = self.fields["lm_head"], self.fields["embed_tokens"]
        layer = self._head() if self._head else None
        renamed: dict[re.Pattern[str], str | None] = {ONLY_TO_RESTORE: None}
        if not is_planes(self.fields):
            renamed[re.compile(rf"^{re.escape(head)}\.({'|'.join(ONLY_FOR_OTHER_COLUMNS)})$")] = None
        if self.fields["tied"]:
            renamed[re.compile(rf"^{re.escape(table)}\.(?!{TABLE}\.|{HEAD_IN_TABLE}\.)")] = f"{table}.{TABLE}."
        if layer is not None:
            # A bias that the architecture has itself is the module's, by the name that vLLM knows.
            own = "|bias$" if layer.bias is not None else ""
            renamed[re.compile(rf"^{re.escape(head)}\.(?!{HEAD}\.{own})")] = f"{head}.{HEAD}."
        elif get_pp_group().is_last_rank:
            self._put_head_into_table()
            renamed[re.compile(rf"^{re.escape(head)}\.")] = f"{table}.{HEAD_IN_TABLE}."
        return renamed

    def _put_head_into_table(self) -> None:
        """Gemma 2 and Cohere have no layer for the head: vLLM asks the input embedding for logits."""
        table = self._table() if self._table else None
        if table is None:
            raise ValueError(
                "headroom's plugin finds neither the head nor the input embedding of this architecture in vLLM: "
                "load the checkpoint with transformers"
            )
        if not hasattr(table, HEAD_IN_TABLE):
            table.quant_method.hold_head(table)


class FirstMapper(WeightsMapper):  # type: ignore[misc]
    """Renames before the model's own mapper does: names are those of the checkpoint."""

    def __ror__(self, other: WeightsMapper) -> WeightsMapper:
        merged = WeightsMapper.__or__(other, self)
        merged.orig_to_new_regex = {**self.orig_to_new_regex, **other.orig_to_new_regex}
        return merged
