"""A checked local folder becomes a transformers model and tokenizer. Runs no code of the model, reaches no network."""

import math
import os
from pathlib import Path
from typing import Any

import torch

from service.compression.states.offloading import Room
from service.compression.text.examples import Examples
from service.foundation.errors import CorruptCheckpoint, UnsupportedModel
from service.models.model_files import ModelInspection

# A sliced checkpoint holds fewer elements than its config describes, at most so many times.
SLICED_GROWTH = 8


def go_offline() -> None:
    """From here on this process reaches no hub and holds no token: a config cannot make the loading code fetch."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.pop("HF_TOKEN", None)
    constants.HF_HUB_OFFLINE = True


def load_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        reads = bool(tokenizer("a", add_special_tokens=False).input_ids)
    except Exception as error:  # whatever a hostile or foreign tokenizer file makes transformers raise
        raise UnsupportedModel(f"the model's tokenizer cannot be loaded: {_first_line(error)}") from error
    if not reads:  # transformers makes an empty one of a folder without tokenizer files
        raise UnsupportedModel("the model has no tokenizer: add its tokenizer.json and tokenizer_config.json")
    return tokenizer


def load_model(path: Path, config: dict[str, Any], auto_class: str, stored_elements: int, room: Room) -> Any:
    """The model in its stored dtype, in evaluation mode. config: config.json as read by inspect_model; auto_class: the
    class of transformers that loads it.

    UnsupportedModel when transformers cannot build it; CorruptCheckpoint when weights are missing or of other shapes
    than the config says.
    """
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise UnsupportedModel(f"the model is compressed already ({method}); send the uncompressed one")
    last: Exception | None = None
    for attention in ("sdpa", "eager"):  # always named, so that the config's own wish is never followed
        try:
            skeleton = skeleton_of(path, auto_class)
            _refuse_larger(skeleton, stored_elements)
            with room.placing(skeleton) as placed:
                return _load(path, auto_class, attention, placed, room.device)
        except ValueError as error:
            last = error
            if "attention" not in str(error).lower():
                break
        except (KeyError, ImportError, AttributeError, TypeError, RuntimeError) as error:
            last = error
            break
    assert last is not None
    if "size" in str(last) and "mismatch" in str(last):
        raise CorruptCheckpoint(f"tensors have other shapes than config.json says: {_first_line(last)}") from last
    raise UnsupportedModel(f"transformers cannot build the model: {_first_line(last)}") from last


def load_any_model(inspection: ModelInspection, auto_class: str, room: Room) -> Any:
    """Of a plain or a sliced checkpoint, through the public loader; errors as of load_model."""
    elements = sum(math.prod(entry.shape) for entry in inspection.tensors.values())
    section = inspection.config.get("quantization_config") or {}
    if section.get("quant_method") != "headroom":
        return load_model(inspection.path, inspection.config, auto_class, elements, room)
    import headroom  # noqa: F401  # registers the format

    plain = {key: value for key, value in inspection.config.items() if key != "quantization_config"}
    return load_model(inspection.path, plain, auto_class, SLICED_GROWTH * elements, room)


def _load(path: Path, auto_class: str, attention: str, placed: dict[str, Any], device: torch.device) -> Any:
    import transformers

    model, info = getattr(transformers, auto_class).from_pretrained(
        path,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation=attention,
        dtype="auto",
        output_loading_info=True,
        **placed,
    )
    if info["missing_keys"]:
        name = sorted(info["missing_keys"])[0]
        raise CorruptCheckpoint(f"the checkpoint lacks {len(info['missing_keys'])} tensors, first {name!r}")
    if info["mismatched_keys"]:
        raise CorruptCheckpoint(f"tensors have other shapes than config.json says: {info['mismatched_keys']}")
    return model.eval() if placed else model.to(device).eval()


def skeleton_of(path: Path, auto_class: str) -> Any:
    """The model that a folder's config describes, without its weights."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    with torch.device("meta"):
        return getattr(transformers, auto_class).from_config(config)


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


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
