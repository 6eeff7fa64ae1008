"""From a sliced checkpoint back to the dense one it was made from; plain transformers loads the result.

Every tensor but the head's (and a shared input table) is copied. Raw columns come back bit for bit; a table in another
basis is turned back in float64 and rounded once more to its dtype; planes give what their 8 bits hold. Memory: the
head, and one file of weights.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from headroom.errors import InvalidArgument
from headroom.loading import plane_codes
from headroom.loading.head import REMOVED_NAME

INDEX_NAME = "model.safetensors.index.json"
ROWS_AT_ONCE = 8192
# What describes the sliced checkpoint, and would be untrue of the restored one.
NOT_COPIED = {INDEX_NAME, "config.json", "headroom.json", "report.json", "report.html", "README.md", REMOVED_NAME}
OTHER_FORMS = {"dense", "onnx", "revisions"}  # folders of a result that hold checkpoints of their own


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
        for path in _side_files(folder):
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, staging / path)
        (staging / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if output.exists():
            output.rmdir()
        _make_readable(staging)
        staging.rename(output)
    return output


def _side_files(folder: Path) -> Iterator[Path]:
    """Relative: tokenizer, templates and settings, in folders too. Other forms of the model stay where they are."""
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in inner.parts)
        if inner.parts[0] in OTHER_FORMS or is_hidden or not path.is_file():
            continue
        if inner.name not in NOT_COPIED and inner.suffix != ".safetensors":
            yield inner


def _make_readable(staging: Path) -> None:
    """Modes that any new file and folder of this process has: what wrote the weights makes them private."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (staging, *staging.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


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
    if sliced.get("head") == "planes":
        return {}
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
    if not sliced["source_bias"] or sliced.get("mean_repaired"):
        gone.add(f"{sliced['lm_head']}.bias")
    if sliced["source_tied"]:  # it comes back under every name that it had
        gone.add(f"{sliced['embed_tokens']}.weight")
    renamed = _renaming(sliced)
    places: dict[str, str] = {}
    for name in _weight_files(folder):
        with safe_open(folder / name, framework="pt") as file:
            kept = {renamed(key): file.get_tensor(key) for key in file.keys() if key not in gone}
        kept |= replaced
        replaced = {}
        save_file(kept, staging / name, metadata={"format": "pt"})
        places |= dict.fromkeys(kept, name)
    if len(set(places.values())) > 1:
        total = sum((staging / name).stat().st_size for name in set(places.values()))
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (staging / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


# Tensors of the sliced modules that a plain model has not; the weight itself depends on the layout.
PLANES = ("whole", "high", "low", "scales", "basis")
PARTS = {
    "lm_head": ("basis", "keep_columns", "triangle", "mean_hidden", *PLANES),
    "embed_tokens": ("weight_rest", "rotation", "inverse_order", "unbasis", *PLANES),
}


def _renaming(sliced: dict[str, Any]) -> Callable[[str], str]:
    """From the names in a sliced checkpoint to those of its source."""
    names = sliced.get("source_names") or {}
    prefix, bias = names.get("prefix") or "", names.get("bias") or []

    def renamed(name: str) -> str:
        if name == f"{sliced['lm_head']}.bias" and bias and name not in bias:
            return str(bias[0])
        return name.removeprefix(prefix) if prefix else name

    return renamed


def _restored(folder: Path, sliced: dict[str, Any], removed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The dense head or shared table, and the bias as it was, by the names that they had in the source."""
    biases = {name.removeprefix("bias."): bias for name, bias in removed.items() if name.startswith("bias.")}
    holder = sliced["embed_tokens" if sliced["source_tied"] else "lm_head"]
    names = (sliced.get("source_names") or {}).get("weight") or [f"{holder}.weight"]
    if sliced["source_tied"] and not sliced["tied"]:  # the input table is there as it was
        (dense, *_) = (tensor for _, tensor in _tensors(folder, {f"{holder}.weight", *names}))
    elif sliced.get("head") == "planes":
        dense = _from_planes(folder, holder)
    else:
        parts = dict(_tensors(folder, {f"{holder}.{name}" for name in ("weight", *PARTS["embed_tokens"])}))
        dense = _joined({name.removeprefix(f"{holder}."): tensor for name, tensor in parts.items()} | removed, sliced)
    # Each has bytes of its own: safetensors writes no storage twice.
    return {name: dense.clone(memory_format=torch.contiguous_format) for name in names} | biases


def _joined(parts: dict[str, Tensor], sliced: dict[str, Any]) -> Tensor:
    """(vocab, hidden), in the source's basis."""
    table = torch.cat([parts["weight"], parts["weight_rest"]], dim=1)
    if sliced["permutation"]:
        return table[:, parts["inverse_order"]]
    back = parts["rotation"].double().T
    return torch.cat([(rows.double() @ back).to(table.dtype) for rows in table.split(ROWS_AT_ONCE)])


def _from_planes(folder: Path, holder: str) -> Tensor:
    """(vocab, hidden) of the basis' dtype, from all 8 bits."""
    parts = dict(_tensors(folder, {f"{holder}.{name}" for name in PLANES}))
    whole, high, low, scales, basis = (parts[f"{holder}.{name}"] for name in PLANES)
    back, blocks = basis.double(), []
    for rows in plane_codes.blocks_of(whole.shape[0], ROWS_AT_ONCE):
        codes = plane_codes.join(plane_codes.Planes(whole[rows], high[rows], low[rows]), basis.shape[0])
        values = plane_codes.values(codes, scales[rows].view(torch.bfloat16), torch.float64)
        blocks.append((values @ back).to(basis.dtype))
    return torch.cat(blocks)


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
