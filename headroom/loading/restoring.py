"""From a sliced checkpoint back to the dense one it was made from; plain transformers loads the result.

Every tensor but the head's (and a shared input table) is copied. Raw columns come back bit for bit; a table in another
basis is turned back in float64 and rounded once more to its dtype. Memory: the head, and one file of weights.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from headroom.errors import InvalidArgument
from headroom.loading.head import REMOVED_NAME

INDEX_NAME = "model.safetensors.index.json"
ROWS_AT_ONCE = 8192
# What describes the sliced checkpoint, and would be untrue of the restored one.
NOT_COPIED = {INDEX_NAME, "config.json", "headroom.json", "report.json", "report.html", "README.md", REMOVED_NAME}


def restore(folder: str | Path, output: str | Path) -> Path:
    """Write the dense checkpoint of the sliced one in `folder` to `output`, a new or empty folder; gives its path.

    InvalidArgument when `folder` holds no headroom checkpoint, when the removed part was not stored (an untied head,
    or one with a bias, needs `options.keep_removed`), or when `output` is not empty. Nothing is left after a failure.
    """
    folder, output = Path(folder), Path(output)
    config, sliced = _read_config(folder)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InvalidArgument(f"'{output}' is there already; choose another output.")
    removed = _removed(folder, sliced)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".restoring-") as scratch:
        staging = Path(scratch) / "checkpoint"
        staging.mkdir()
        _write_weights(folder, staging, sliced, removed)
        for path in folder.iterdir():
            if path.is_file() and path.name not in NOT_COPIED and path.suffix != ".safetensors":
                shutil.copyfile(path, staging / path.name)
        (staging / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if output.exists():
            output.rmdir()
        staging.rename(output)
    return output


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config.json of the dense model, the section that described the slicing)."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"'{folder}' holds no readable config.json.") from error
    sliced = config.pop("quantization_config", None) or {}
    if sliced.get("quant_method") != "headroom":
        raise InvalidArgument(f"'{folder}' is no headroom checkpoint.")
    if "source_tied" not in sliced:
        raise InvalidArgument(f"'{folder}' is of an older release and does not tell what it was made from.")
    if sliced.get("head_dtype", "source") != "source":
        raise InvalidArgument(f"'{folder}' has a rounded head, which gives nothing back; take the source model.")
    if sliced.get("refined"):
        raise InvalidArgument(f"'{folder}' has a head that was trained further; take the source model.")
    config.pop("tie_word_embeddings", None)
    if sliced["source_tie_word_embeddings"] is not None:
        config["tie_word_embeddings"] = sliced["source_tie_word_embeddings"]
    return config, sliced


def _removed(folder: Path, sliced: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / REMOVED_NAME
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # it is no mapping
    if (sliced["source_bias"] and sliced["mean_repaired"]) or not sliced["source_tied"]:
        what = "the bias that the repair replaced" if sliced["source_tied"] else "the removed columns"
        raise InvalidArgument(
            f"'{folder}' does not hold {what} ({REMOVED_NAME} is missing); compress again with --keep-removed, "
            "or take the source model."
        )
    return {}


def _write_weights(folder: Path, staging: Path, sliced: dict[str, Any], removed: dict[str, Tensor]) -> None:
    """File by file; the restored tensors go into the first."""
    replaced = _restored(folder, sliced, removed)
    gone = {f"{sliced[part]}.{name}" for part, names in PARTS.items() for name in names} | set(replaced)
    if not sliced["tied"]:
        gone.add(f"{sliced['lm_head']}.weight")  # also of a head untied for the slicing: the input table is what it was
    if not sliced["source_bias"] or sliced["mean_repaired"]:
        gone.add(f"{sliced['lm_head']}.bias")
    places: dict[str, str] = {}
    for name in _weight_files(folder):
        with safe_open(folder / name, framework="pt") as file:
            kept = {key: file.get_tensor(key) for key in file.keys() if key not in gone}
        kept |= replaced
        replaced = {}
        save_file(kept, staging / name, metadata={"format": "pt"})
        places |= dict.fromkeys(kept, name)
    if len(set(places.values())) > 1:
        total = sum((staging / name).stat().st_size for name in set(places.values()))
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (staging / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


# Tensors of the sliced modules that a plain model has not; the weight itself depends on the layout.
PARTS = {
    "lm_head": ("basis", "keep_columns", "triangle", "mean_hidden"),
    "embed_tokens": ("weight_rest", "rotation", "inverse_order"),
}


def _restored(folder: Path, sliced: dict[str, Any], removed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The dense head or shared table, and the bias as it was, by their names in the plain model."""
    biases = {name.removeprefix("bias."): bias for name, bias in removed.items() if name.startswith("bias.")}
    if sliced["source_tied"] and not sliced["tied"]:
        return biases
    holder = sliced["embed_tokens" if sliced["tied"] else "lm_head"]
    parts = dict(_tensors(folder, {f"{holder}.{name}" for name in ("weight", *PARTS["embed_tokens"])}))
    parts = {name.removeprefix(f"{holder}."): tensor for name, tensor in parts.items()} | removed
    table = torch.cat([parts["weight"], parts["weight_rest"]], dim=1)
    if sliced["permutation"]:
        dense = table[:, parts["inverse_order"]]
    else:
        back = parts["rotation"].double().T
        dense = torch.cat([(rows.double() @ back).to(table.dtype) for rows in table.split(ROWS_AT_ONCE)])
    return {f"{holder}.weight": dense.contiguous()} | biases


def _weight_files(folder: Path) -> list[str]:
    index = folder / INDEX_NAME
    if index.is_file():
        return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    return ["model.safetensors"]


def _tensors(folder: Path, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
    for name in _weight_files(folder):
        with safe_open(folder / name, framework="pt") as file:
            for key in wanted & set(file.keys()):
                yield key, file.get_tensor(key)
