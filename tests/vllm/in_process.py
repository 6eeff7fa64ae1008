"""Run by vLLM's Python: `in_process.py FOLDER[|IMPLEMENTATION[|SETTINGS]]`...: models by vLLM's loader, no engine.

Prints how far its embeddings and log-probabilities are from NAME.reference, a line of JSON for each.
"""

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from safetensors.torch import load_file
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from vllm.plugins import load_general_plugins


class Told(logging.Handler):
    """What headroom's plugin said while a model was loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("vllm.headroom").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def compared(folder: Path, implementation: str, settings: str) -> dict[str, Any]:
    arguments = EngineArgs(
        model=str(folder), dtype="float32", enforce_eager=True, max_model_len=32, model_impl=implementation
    )
    arguments.additional_config = {"headroom": json.loads(settings)}
    config = arguments.create_engine_config()
    told = Told()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
    reference = load_file(folder.with_suffix(".reference"))
    with torch.inference_mode():
        found, logits = model.embed_input_ids(reference["ids"]), model.compute_logits(reference["states"])
    log_p = logits.log_softmax(-1)
    return {
        "told": told.lines,
        "class": type(model).__name__,
        "shape": list(logits.shape),
        "embeddings": float((found - reference["embeddings"]).abs().max()),
        "log_p": float((log_p - reference["log_p"]).abs().max()),
        "same_top": bool((log_p.argmax(-1) == reference["log_p"].argmax(-1)).all()),
    }


def main() -> None:
    torch.accelerator.empty_cache = lambda: None  # as vLLM's worker for CPUs does
    load_general_plugins()
    init_distributed_environment(1, 0, f"file://{tempfile.mkdtemp()}/store", 0, "gloo")
    with set_current_vllm_config(VllmConfig()):  # of no model, so that there is a group for experts too
        ensure_model_parallel_initialized(1, 1)
    for argument in sys.argv[1:]:
        folder, implementation, settings = (argument.split("|") + ["auto", "{}"][argument.count("|") :])[:3]
        names = {"folder": Path(folder).name, "implementation": implementation, "settings": settings}
        try:
            result = compared(Path(folder), implementation, settings)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write("RESULT " + json.dumps(names | result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
