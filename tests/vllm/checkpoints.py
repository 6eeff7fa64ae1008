"""Checkpoints that vLLM is to read, made by the project's own engine, and what transformers makes of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

import headroom  # noqa: F401  # teaches transformers the format
from service.compression.jobs.compress import compress
from service.ports.engine import CorpusFile, EngineTask, Verdict
from service.ports.models import LocalModel
from tests.factories import make_recipe
from tests.plane_checkpoints import write_planes
from tests.tiny_models import make_text, make_tiny_checkpoint

POSITIONS = 9
SIZES = {"window": 32, "calibration_tokens": 1024, "evaluation_tokens": 256}


@dataclass(frozen=True)
class Case:
    """One checkpoint: an architecture and a layout of the format."""

    family: str
    layout: str  # "sliced", "permuted", an integer dtype or "planes"
    tied: bool  # the layout of the checkpoint; a rounded head is never tied
    implementation: str = "auto"  # vLLM's own code of the architecture, or "transformers"

    @property
    def name(self) -> str:
        return "-".join([self.family, self.layout, "tied" if self.tied else "untied"])


def make_checkpoint(case: Case, folder: Path, *, keep_removed: bool = False, **sizes: Any) -> Path:
    """A checkpoint in float32: its head at half the columns, or all of them in planes, a preview of 4 bits."""
    work = folder / f"{case.name}-work"
    (work / "out").mkdir(parents=True)
    make_tiny_checkpoint(work / "model", case.family, **sizes)
    if case.layout == "planes":
        return write_planes(work / "model", folder / case.name, whole=0, rescored=16, keep_tied=case.tied)
    (work / "corpus.txt").write_text(make_text(2500))
    options: dict[str, Any] = SIZES | {"tied": "keep" if case.tied else "untie", "keep_removed": keep_removed}
    if case.layout.startswith("int"):
        options["head_dtype"] = case.layout
    method = "slope" if case.layout == "permuted" else "probability"
    recipe = make_recipe(ratio=0.5, method=method, drift={"perplexity": 10, "kl": None}, options=options)
    local = LocalModel("acme/tiny", None, work / "model")
    task = EngineTask(
        "job_v", recipe, (local,), (CorpusFile(work / "corpus.txt", "text", None),), work / "cache", work / "out", "cpu"
    )
    outcome = compress(task, lambda phase, fraction: None)
    assert outcome.verdict is Verdict.PUBLISH
    return (work / "out").rename(folder / case.name)


def write_reference(folder: Path) -> None:
    """NAME.reference beside the folder: ids, their embeddings; states (POSITIONS, hidden), their log-probabilities."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (POSITIONS,), generator=generator)
    states = torch.randn(POSITIONS, model.config.hidden_size, generator=generator)
    with torch.inference_mode():
        logits = model.get_output_embeddings()(states) * getattr(model.config, "logit_scale", 1.0)
        cap = getattr(model.config, "final_logit_softcapping", None)
        logits = logits if cap is None else torch.tanh(logits / cap) * cap
        found = {"ids": ids, "states": states, "log_p": logits.log_softmax(-1)}
        found["embeddings"] = model.get_input_embeddings()(ids)
    save_file({name: tensor.clone().contiguous() for name, tensor in found.items()}, folder.with_suffix(".reference"))
