"""What a job works on: the checked model's head, and its hidden states and statistics, from the cache if it can be.

A warm cache means that neither the backbone nor even the model is loaded: the head's matrix is read from its file.
"""

import gc
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from headroom.contract.compress import Method
from headroom.contract.job_recipe import JobRecipe, ReadingOptions
from headroom.loading.head import fingerprint_inputs
from service.compression.states.hidden_cache import DTYPES, HiddenCache, HiddenStates
from service.compression.states.hidden_states import hidden_states_of
from service.compression.states.lm_head import LmHead, StoredNames, Transform, find_lm_head, outside_of
from service.compression.states.model_loading import (
    check_token_ids,
    load_model,
    load_tokenizer,
    longest_window,
)
from service.compression.states.offloading import room_of
from service.compression.states.statistics import Statistics, calibrate
from service.compression.states.tokenizer_files import files_of_tokenizer
from service.compression.text.corpus import Text, WindowSettings
from service.compression.text.examples import Examples
from service.compression.text.reading import CorpusReading, read_corpus, reading_of
from service.foundation.errors import ModelDrift, UnsupportedHead
from service.models.model_files import ModelInspection, digest_model, inspect_model
from service.models.side_files import is_side_file
from service.ports.engine import EngineTask

CACHE_FORMAT = 5
# What decides, beside a tokenizer's files, which ids it gives: how it is converted, and what splits its text.
TOKENIZING = (
    "tokenizers",
    "sentencepiece",
    "tiktoken",
    "sacremoses",
    "ftfy",
    "fugashi",
    "jieba",
    "rjieba",
    "pythainlp",
)
FINGERPRINT_TOKENS = 16
CONTRACT_WINDOWS, CONTRACT_LENGTH = 2, 64


@dataclass(frozen=True, eq=False)
class FingerprintInput:
    """A few tokens, as transformers_plugin.py gives them to a model; the hidden state after the last."""

    input_ids: list[int]
    hidden: list[float]


@dataclass(frozen=True, eq=False)
class Source:
    """A model and corpus, ready for analysis. Nothing in it needs the backbone any more."""

    inspection: ModelInspection
    digest: str  # of config and weights
    corpus_digest: str
    reading: CorpusReading
    head: LmHead
    stored: StoredNames
    base_model_prefix: str
    settings: dict[str, Any]  # window, split and so on, as the report states them
    groups: list[str] | None  # of each evaluation window, if the corpus was read by groups
    calibration: HiddenStates
    evaluation: HiddenStates
    fingerprint: FingerprintInput
    key: str
    cache: HiddenCache
    was_warm: bool
    summed: Statistics | None = None  # of a corpus whose hidden states are with several workers

    def statistics(self, method: Method, device: torch.device, progress: Callable[[float], None]) -> Statistics:
        """Calibration statistics, computed once per cache entry (and once more for `fisher`, which needs more)."""
        with_fisher = method is Method.FISHER
        if self.summed is not None and not with_fisher:
            progress(1.0)
            return self.summed
        name = "statistics-fisher" if with_fisher else "statistics"
        kept = self.cache.load_tensors(self.key, name)
        if kept is not None:
            progress(1.0)
            return Statistics(**kept)
        fresh = calibrate(self.calibration, self.head, with_fisher=with_fisher, device=device, progress=progress)
        check_numbers(fresh)
        if self.summed is None:
            self.cache.save_tensors(self.key, name, vars(fresh))
        return fresh


def check_numbers(statistics: Statistics) -> None:
    if not torch.isfinite(statistics.second_moment_sum).all():
        raise ModelDrift("the model's hidden states on this corpus are not numbers: its weights are damaged")


def open_source(
    task: EngineTask[JobRecipe],
    device: torch.device,
    progress: Callable[[float], None],
    tokenizer_folder: Path | None = None,
) -> Source:
    """Any error of model or corpus is a typed one; see model_files, model_loading, corpus and lm_head.

    tokenizer_folder: where the tokenizer is, if not beside the model.
    """
    inspection = inspect_with_tokenizer(task.model.path, tokenizer_folder)
    digest, corpus_digest = digest_model(inspection), file_digest(task.corpus.path)
    cache = HiddenCache(task.cache_dir / "hidden_states")
    text = Text(task.corpus.path, task.corpus.format, task.corpus.field, task.recipe.group_field)
    reading = reading_of(inspection.config, text)
    tokenizer_folder = tokenizer_folder or inspection.path
    key = cache_key(task, tokenizer_folder, digest, corpus_digest, device)
    was_warm = cache.hold(key) and cache.is_whole(key)
    if not was_warm:
        model, parts, meta = read_windows(task, inspection, tokenizer_folder, reading, text, device)
        cache.fill(key, model, parts, meta, progress)
        del model
        gc.collect()  # a model holds itself in circles: gigabytes that would wait for the collector
        cache.hold(key)
    progress(1.0)
    meta = cache.read_meta(key)
    stored = stored_names(meta)
    return Source(
        inspection=inspection,
        digest=digest,
        corpus_digest=corpus_digest,
        reading=reading,
        head=read_head(inspection, meta["head"], stored, device),
        stored=stored,
        base_model_prefix=meta["base_model_prefix"],
        settings=meta["settings"],
        groups=meta["groups"],
        calibration=cache.open(key, "calibration"),
        evaluation=cache.open(key, "evaluation"),
        fingerprint=FingerprintInput(**meta["fingerprint"]),
        key=key,
        cache=cache,
        was_warm=was_warm,
    )


def inspect_with_tokenizer(path: Path, tokenizer_folder: Path | None = None) -> ModelInspection:
    """The checked model, and which of its files its own tokenizer reads (of one elsewhere: none of them)."""
    inspection = inspect_model(path)
    if tokenizer_folder is not None and tokenizer_folder != path:
        return inspection
    return replace(inspection, tokenizer_files=files_of_tokenizer(load_tokenizer(path), path))


def stored_names(meta: dict[str, Any]) -> StoredNames:
    return StoredNames(**{part: tuple(names) for part, names in meta["stored"].items()})


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_key(
    task: EngineTask[JobRecipe], tokenizer_folder: Path, digest: str, corpus_digest: str, device: torch.device
) -> str:
    options = task.recipe.options
    names = {file.name for file in tokenizer_folder.iterdir() if is_side_file(file.name) and file.is_file()}
    names |= set(files_of_tokenizer(load_tokenizer(tokenizer_folder), tokenizer_folder))
    described = {
        "format": CACHE_FORMAT,
        "model": digest,
        "tokenizer": {name: file_digest(tokenizer_folder / name) for name in sorted(names - {"config.json"})},
        "corpus": [corpus_digest, task.corpus.format, task.corpus.field, task.recipe.group_field],
        "windows": [options.window, options.calibration_tokens, options.evaluation_tokens, options.seed],
        "device": device.type,
        "versions": [_version(name) for name in ("torch", "transformers", *TOKENIZING)],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_windows(
    task: EngineTask[JobRecipe],
    inspection: ModelInspection,
    tokenizer_folder: Path,
    reading: CorpusReading,
    text: Text,
    device: torch.device,
) -> tuple[Any, dict[str, Examples], dict[str, Any]]:
    """The model, the examples of calibration and evaluation, and what is kept of both beside the hidden states."""
    tokenizer = load_tokenizer(tokenizer_folder)
    model = load_backbone(task, inspection, reading.auto_class, device)
    settings = _window_settings(task.recipe.options, longest_window(model.config, tokenizer))
    corpus = read_corpus(reading, tokenizer, model.config, text, settings)
    parts = {"calibration": corpus.calibration, "evaluation": corpus.evaluation}
    for examples in parts.values():
        check_token_ids(examples, model.get_input_embeddings().weight.shape[0])
    sample = {name: ids.to(device) for name, ids in corpus.evaluation.first(CONTRACT_WINDOWS, CONTRACT_LENGTH).items()}
    head = find_lm_head(model, sample)
    stored = stored_names_of(inspection, head, model)
    dtype = str(read_tensor(inspection, stored.weight[0]).dtype)
    if dtype not in DTYPES or str(head.weight.dtype) not in DTYPES:
        raise UnsupportedHead(f"the head is stored as {dtype}; only {', '.join(DTYPES)} can be sliced")
    stated = {"window": settings.window, "split": corpus.split, "starts_with_bos": corpus.starts_with_bos}
    meta = {
        "dtype": str(head.weight.dtype),
        "hidden_size": head.hidden_size,
        "head": _describe_head(head),
        "stored": asdict(stored),
        "base_model_prefix": model.base_model_prefix,
        "settings": stated,
        "groups": corpus.groups,
    }
    return model, parts, meta | {"fingerprint": _fingerprint(model, corpus.evaluation)}


def load_backbone(
    task: EngineTask[JobRecipe], inspection: ModelInspection, auto_class: str, device: torch.device
) -> Any:
    elements = sum(math.prod(entry.shape) for entry in inspection.tensors.values())
    return load_model(inspection.path, inspection.config, auto_class, elements, room_of(task, inspection, device))


def _window_settings(options: ReadingOptions, limit: int) -> WindowSettings:
    return WindowSettings(
        min(options.window, limit), options.calibration_tokens, options.evaluation_tokens, options.seed
    )


def _describe_head(head: LmHead) -> dict[str, Any]:
    return {
        "transform": head.transform.describe(),
        "name": head.name,
        "embed_name": head.embed_name,
        "is_tied": head.is_tied,
        "embed_scale": head.embed_scale,
    }


@torch.inference_mode()
def _fingerprint(model: Any, examples: Examples) -> dict[str, Any]:
    ids = examples.inputs["input_ids"][:1, :FINGERPRINT_TOKENS]
    hidden = hidden_states_of(model, fingerprint_inputs(model, ids))
    return {"input_ids": ids[0].tolist(), "hidden": hidden[0, -1].tolist()}


def stored_names_of(inspection: ModelInspection, head: LmHead, model: Any) -> StoredNames:
    """Under which names the checkpoint has the parameters of the head of a loaded model."""
    embed = f"{head.embed_name}.weight"
    names = [embed, f"{head.name}.weight"] if head.is_tied else [f"{head.name}.weight"]
    bias = [f"{head.name}.bias"]
    table = model.get_input_embeddings().weight.detach()
    outside = [head.outside_name] if head.outside_name else []
    return StoredNames(
        weight=_stored_as(inspection, names, head.weight),
        head=(_saved_name(model, f"{head.name}.weight"),),
        bias=() if head.module_bias is None else _stored_as(inspection, bias, head.module_bias),
        embed=_stored_by_name(inspection, [embed]) if head.is_tied else _stored_as(inspection, [embed], table),
        outside=_stored_as(inspection, outside, model.get_parameter_or_buffer(outside[0])) if outside else (),
    )


def _saved_name(model: Any, name: str) -> str:
    """Under which a parameter is saved: transformers 5 renames some on loading, and back."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 calls modules by the names that their files have
        return name
    with torch.device("meta"):  # a loaded one would only undo what was renamed in its own file
        fresh = type(model)(model.config)
    (saved,) = revert_weight_conversion(fresh, {name: torch.zeros(1, 1)})
    return str(saved)


def _stored_by_name(inspection: ModelInspection, names: list[str]) -> tuple[str, ...]:
    """Those of `names` that the checkpoint has, whole or, as in a bare base model's file, without their first part."""
    candidates = [candidate for name in names for candidate in (name, name.partition(".")[2])]
    return tuple(name for name in candidates if name in inspection.tensors)


def _stored_as(inspection: ModelInspection, names: list[str], tensor: Tensor) -> tuple[str, ...]:
    """By name, else the tensor of the same content. UnsupportedHead when nothing in the checkpoint is it."""
    found = _stored_by_name(inspection, names)
    if found:
        return found
    for entry in inspection.tensors.values():
        if entry.shape == tuple(tensor.shape):
            stored = read_tensor(inspection, entry.name).to(tensor.device, tensor.dtype)
            if torch.equal(stored, tensor):
                return (entry.name,)
    raise UnsupportedHead(f"no tensor of the checkpoint is {names[0]!r} of the loaded model")


def read_head(
    inspection: ModelInspection, described: dict[str, Any], stored: StoredNames, device: torch.device
) -> LmHead:
    """The head from the checkpoint's own file, in its dtype: the same bytes that the model was built from."""
    transform = Transform(**described["transform"])
    return LmHead(
        weight=read_tensor(inspection, stored.weight[0]).to(device),
        module_bias=read_tensor(inspection, stored.bias[0]).to(device) if stored.bias else None,
        transform=transform,
        name=described["name"],
        embed_name=described["embed_name"],
        is_tied=described["is_tied"],
        embed_scale=described["embed_scale"],
        outside=outside_of(read_tensor(inspection, stored.outside[0]), transform).to(device)
        if stored.outside
        else None,
    )


def read_tensor(inspection: ModelInspection, name: str) -> Tensor:
    with safe_open(inspection.path / inspection.tensors[name].file, framework="pt") as file:
        tensor = file.get_tensor(name)
    assert isinstance(tensor, Tensor)
    return tensor
