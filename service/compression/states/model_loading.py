"""A checked local folder becomes a transformers model and tokenizer. Runs no code of the model, reaches no network."""

import math
import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from service.compression.states.library_errors import fact_of, missing_library
from service.compression.states.offloading import Room
from service.compression.text.examples import Examples
from service.foundation.errors import CorruptCheckpoint, UnsupportedModel
from service.models.model_files import ModelInspection, inspect_model

CONFIG_FLOATS = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.float16)}
CONFIG_FLOATS |= {"bfloat16": torch.bfloat16, "double": torch.float64, "float": torch.float32, "half": torch.float16}
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# A sliced checkpoint holds fewer elements than its config describes, at most so many times.
SLICED_GROWTH = 8


def go_offline() -> None:
    """Cut this process off from every hub, tokens included: a config cannot make the loading code fetch."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.pop("HF_TOKEN", None)
    constants.HF_HUB_OFFLINE = True


def load_tokenizer(path: Path) -> Any:
    """UnsupportedModel says what is missing. Of the same files again it is the same object, which nobody changes."""
    try:
        entries = [(entry.name, entry.stat()) for entry in os.scandir(path)]
    except OSError as error:
        raise UnsupportedModel(f"the model's tokenizer cannot be read: {error.strerror}") from error
    return _load_tokenizer(path, tuple(sorted((name, found.st_size, found.st_mtime_ns) for name, found in entries)))


@lru_cache(maxsize=2)
def _load_tokenizer(path: Path, files: tuple[tuple[str, int, int], ...]) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        reads = bool(tokenizer("a", add_special_tokens=False).input_ids)
    except Exception as error:  # whatever a hostile or foreign tokenizer file makes transformers raise
        if package := missing_library(error, path):
            raise UnsupportedModel(
                f"the model's tokenizer is read by the package {package}, which the worker lacks: install {package} "
                "there, or add a tokenizer.json to the model"
            ) from error
        raise UnsupportedModel(
            f"the model's tokenizer cannot be loaded: {fact_of(error)}; save it as tokenizer.json again and post the "
            "job anew"
        ) from error
    if not reads:  # transformers makes an empty one of a folder without tokenizer files
        raise UnsupportedModel("the model has no tokenizer: add its tokenizer.json and tokenizer_config.json")
    return tokenizer


def load_model(path: Path, config: dict[str, Any], auto_class: str, stored_elements: int, room: Room) -> Any:
    """The model in evaluation mode, in the dtype of `loading_dtype`. config: config.json as read by inspect_model;
    auto_class: the class of transformers that loads it.

    UnsupportedModel when transformers cannot build it; CorruptCheckpoint when weights are missing or of other shapes
    than the config says.
    """
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise UnsupportedModel(f"the model is compressed already ({method}); send the uncompressed one")
    inspection = inspect_model(path)
    last: Exception | None = None
    for attention in ("sdpa", "eager"):  # always named, so that the config's own wish is never followed
        try:
            skeleton = skeleton_of(path, auto_class)
            _refuse_odd_counts(skeleton.config.get_text_config())
            if not inspection.config.get("quantization_config"):
                _refuse_other_shapes(skeleton, inspection)
            _refuse_larger(skeleton, stored_elements)
            with room.placing(skeleton) as placed:
                return _load(path, auto_class, attention, loading_dtype(inspection), placed, room.device)
        except (ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError, AssertionError) as error:
            if type(error).__name__ == "OutOfMemoryError" or "memory" in str(error).lower():
                raise
            last = error
            if not isinstance(error, ValueError) or "attention" not in str(error).lower():
                break
    if "size" in str(last) and "mismatch" in str(last):
        raise CorruptCheckpoint("tensors have other shapes than config.json says; save the model again") from last
    assert last is not None
    raise UnsupportedModel(f"transformers cannot build the model: {fact_of(last)}") from last


def loading_dtype(inspection: ModelInspection) -> torch.dtype:
    """The dtype of the config (where it is silent: of most weights), but never less than the head's own.

    A head is measured with the values that its file has; a result is stored in the dtype of its file.
    """
    section = inspection.config.get("quantization_config") or {}
    names = [f"{section.get(part)}.weight" for part in ("lm_head", "embed_tokens")]
    heads = [inspection.tensors[name] for name in (inspection.head, *names) if name in inspection.tensors]
    if not heads:  # of a name that no rule knows
        heads = [entry for entry in inspection.tensors.values() if _is_table(entry.shape, inspection.vocab_size)]
    inner = inspection.config.get("text_config")
    places = (inspection.config, inner if isinstance(inner, dict) else {})
    said = [CONFIG_FLOATS.get(str(place.get(key))) for place in places for key in ("dtype", "torch_dtype")]
    found = [dtype for dtype in said if dtype is not None] or [_main_float(inspection)]
    for entry in heads:
        if entry.dtype in FLOATS:
            found[0] = torch.promote_types(found[0], FLOATS[entry.dtype])
    return found[0]


def _is_table(shape: tuple[int, ...], rows: int | None) -> bool:
    return len(shape) == 2 and shape[0] == rows


def _main_float(inspection: ModelInspection) -> torch.dtype:
    held: Counter[str] = Counter()
    for entry in inspection.tensors.values():
        if entry.dtype in FLOATS:
            held[entry.dtype] += entry.nbytes
    return FLOATS[held.most_common(1)[0][0]] if held else torch.float32


def load_any_model(inspection: ModelInspection, auto_class: str, room: Room) -> Any:
    """The model of a plain or a sliced checkpoint, through the public loader; errors as of load_model."""
    elements = sum(math.prod(entry.shape) for entry in inspection.tensors.values())
    section = inspection.config.get("quantization_config") or {}
    if section.get("quant_method") != "headroom":
        return load_model(inspection.path, inspection.config, auto_class, elements, room)
    import headroom  # noqa: F401  # registers the format

    plain = {key: value for key, value in inspection.config.items() if key != "quantization_config"}
    return load_model(inspection.path, plain, auto_class, SLICED_GROWTH * elements, room)


def _load(
    path: Path, auto_class: str, attention: str, dtype: torch.dtype, placed: dict[str, Any], device: torch.device
) -> Any:
    import transformers

    model, info = getattr(transformers, auto_class).from_pretrained(
        path,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation=attention,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        **placed,
    )
    if info["missing_keys"]:
        name = sorted(info["missing_keys"])[0]
        raise CorruptCheckpoint(f"the checkpoint lacks {len(info['missing_keys'])} tensors, first {name!r}")
    if info["mismatched_keys"]:
        name, stored, described = min(info["mismatched_keys"])
        raise _other_shape(name, tuple(stored), tuple(described))
    return model.eval() if placed else model.to(device).eval()


def skeleton_of(path: Path, auto_class: str) -> Any:
    """The model that a folder's config describes, without its weights."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    with torch.device("meta"):
        return getattr(transformers, auto_class).from_config(config)


def _refuse_odd_counts(config: Any) -> None:
    """transformers builds a model of no layers where config.json says -1, and only fails at what is made of it."""
    for name in ("num_hidden_layers", "hidden_size", "vocab_size"):
        value = getattr(config, name, 1)
        if not isinstance(value, int) or value < 1:
            own = getattr(config, "attribute_map", {}).get(name, name)
            raise CorruptCheckpoint(f"config.json says {own} {value!r}: it must be a whole number from 1 on")


def _refuse_other_shapes(skeleton: Any, inspection: ModelInspection) -> None:
    """By the names that file and model share; those that transformers renames are compared when they are loaded."""
    for name, described in skeleton.state_dict().items():
        entry = inspection.tensors.get(name)
        if entry is not None and entry.shape != tuple(described.shape):
            raise _other_shape(name, entry.shape, tuple(described.shape))


def _other_shape(name: str, stored: tuple[int, ...], described: tuple[int, ...]) -> CorruptCheckpoint:
    hint = "it is empty, as a partitioned run leaves it: gather the weights and " if 0 in stored else ""
    return CorruptCheckpoint(
        f"tensor {name!r} has shape {list(stored)} in the file, config.json makes it {list(described)}; "
        f"{hint}save the model again"
    )


def _refuse_larger(skeleton: Any, stored_elements: int) -> None:
    """Missing layers would be made up before anything could be checked: a config must not decide what is allocated."""
    described = sum(parameter.numel() for parameter in skeleton.parameters())
    if described > 2 * stored_elements:
        raise CorruptCheckpoint(
            f"config.json describes {described:,} parameters, the checkpoint holds {stored_elements:,}"
        )


def longest_window(config: Any, tokenizer: Any) -> int:
    """Positions the model was built for. RoBERTa's config counts two more than it has: its tokenizer tells."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    known = [limit] if isinstance(limit, int) and limit > 0 else []
    return min([*known, int(tokenizer.model_max_length)])


def check_token_ids(examples: Examples, embedding_rows: int) -> None:
    """UnsupportedModel when tokenizer and model do not belong together."""
    largest = max(int(ids.max()) for ids in (*examples.inputs.values(), examples.labels))
    if largest >= embedding_rows:
        raise UnsupportedModel(
            f"the tokenizer gives id {largest}, but the model has {embedding_rows} rows: they do not belong together"
        )
