"""vLLM's own loader, which for headroom checkpoints checks that every parameter of the model was read.

vLLM does this for models without quantization only; with a tensor missing it would serve whatever was in memory. After
that the model must reproduce the fingerprint of the checkpoint.
"""

from typing import Any

from torch import nn
from vllm.model_executor.model_loader import DefaultModelLoader

from headroom.vllm.fingerprint import check_loaded

LOAD_FORMATS = ("auto", "hf", "safetensors")


class CheckedLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM is not there when types are checked
    """vLLM's default loader, which checks headroom checkpoints and loads others as ever."""

    enable_weights_track: bool | None

    def load_model(self, vllm_config: Any, model_config: Any, prefix: str = "") -> nn.Module:
        model: nn.Module = super().load_model(vllm_config, model_config, prefix)
        if model_config.quantization == "headroom":
            check_loaded(model, vllm_config, model_config)
        return model

    def load_weights(self, model: nn.Module, model_config: Any) -> None:
        if model_config.quantization == "headroom" and self.enable_weights_track is None:
            self.enable_weights_track = True
        super().load_weights(model, model_config)
