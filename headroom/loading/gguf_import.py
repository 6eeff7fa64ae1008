"""A GGUF file as a model folder that transformers loads: safetensors of the dequantised weights, and the tokenizer.

transformers reads the file (its own GGUF loader, with the package `gguf` of the extra of that name); here are the
checks around it. Which architectures it knows is its business. Nothing of the file is run.
Memory: the model once in the wanted dtype while it is read, and once more, mapped from disk, while it is checked.
"""

import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from headroom.contract.repository_names import is_repository_id
from headroom.errors import InvalidArgument

Dtype = Literal["bfloat16", "float16", "float32"]
MAGIC = b"GGUF"
NEEDED = ("gguf", "accelerate", "transformers")
CHECKED_POSITIONS = 16


@dataclass(frozen=True)
class ImportedModel:
    """The model in its new folder."""

    id: str
    folder: Path
    architecture: str  # transformers' class
    parameters: int  # a tied table counts once
    dtype: Dtype


def import_gguf(
    file: str | Path,
    model_id: str,
    models_dir: str | Path,
    dtype: str = "bfloat16",
    note: Callable[[str], object] = str,
) -> ImportedModel:
    """Write `models_dir/<ns>/<name>` from a GGUF file; `note` hears of each step.

    The folder appears whole or not at all: it is made beside its place, loaded again as any user would, and renamed.
    InvalidArgument for a name that is not ns/name, a folder that is there, a file that is no GGUF, is damaged, lacks
    tensors or holds a model that transformers cannot build, and where the extra is not installed.
    """
    if not is_repository_id(model_id):
        raise InvalidArgument(f"'{model_id}' is no name of a model; it is <ns>/<name>, such as acme/smol-135m.")
    if dtype not in get_args(Dtype):
        raise InvalidArgument(f"'{dtype}' is no dtype to store weights in; take {', '.join(get_args(Dtype))}.")
    _refuse_without_extra()
    file, target = Path(file), Path(models_dir) / model_id
    _refuse_other_files(file)
    if target.exists():
        raise InvalidArgument(f"'{target}' is there already; choose another name, or remove it first.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".importing-") as scratch, _quiet_transformers():
        staging = Path(scratch) / "model"
        note("reading and dequantising")
        model, tokenizer = _read(file.resolve(), getattr(torch, dtype))
        note("writing")
        _write(model, tokenizer, staging)
        note("loading what was written")
        _check(model, staging)
        for path in staging.iterdir():
            path.chmod(0o644)  # a service under another account may be the one to read it
        staging.chmod(0o755)
        staging.rename(target)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ImportedModel(model_id, target, type(model).__name__, parameters, dtype)  # type: ignore[arg-type]


def _refuse_without_extra() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidArgument(
            f"Reading GGUF needs {', '.join(missing)}, not installed here: pip install 'headroom-lm[gguf]'."
        )


def _refuse_other_files(file: Path) -> None:
    if not file.is_file():
        raise InvalidArgument(f"'{file}' is no file.")
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise InvalidArgument(f"'{file}' is no GGUF file: it does not begin with the letters GGUF.")


def _read(file: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """(model with plain dequantised weights, tokenizer)."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    place: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with _explained(file, "cannot be read as a model"):
        config = AutoConfig.from_pretrained(**place)
        auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model, found = auto_class.from_pretrained(**place, dtype=dtype, output_loading_info=True)
    absent = sorted({*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])})
    if absent:  # transformers would fill them with random numbers
        raise InvalidArgument(
            f"'{file.name}' lacks {len(absent)} of the model's tensors, {absent[0]} among them; it is incomplete."
        )
    with _explained(file, "holds no tokenizer that can be read"):
        tokenizer = AutoTokenizer.from_pretrained(**place)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise InvalidArgument(f"'{file.name}' has a tokenizer of more tokens than the model has rows.")
    return model.eval(), tokenizer


@contextmanager
def _explained(file: Path, what: str) -> Iterator[None]:
    """Whatever the loader trips over in a file of somebody's is a fault of the file, told in a sentence."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; transformers' own have no number
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidArgument(
            f"'{file.name}' {what}: {reason[:300].rstrip('.')}. transformers reads GGUF files of "
            "some architectures only, and the file may be damaged."
        ) from error


def _write(model: Any, tokenizer: Any, folder: Path) -> None:
    """A plain model of the same weights: what was read from GGUF counts as quantised and would not be saved."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), strict=True, assign=True)
    plain.tie_weights()
    plain.config.dtype = model.dtype
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check(model: Any, folder: Path) -> None:
    """What is stored loads by itself and computes what was read, to the bit, with finite logits."""
    from transformers import AutoTokenizer

    stored, found = type(model).from_pretrained(folder, dtype="auto", output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise InvalidArgument("What transformers wrote does not load again with all tensors in their places.")
    ids = tokenizer("The quick brown fox jumps over the lazy dog.", return_tensors="pt").input_ids
    inputs = {"input_ids": ids[:, :CHECKED_POSITIONS]}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.inference_mode():
        wanted, obtained = model(**inputs).logits.float(), stored.eval()(**inputs).logits.float()
    if not math.isfinite(float(wanted.abs().sum())):
        raise InvalidArgument("The model's logits are not finite; the file is damaged, or needs another --dtype.")
    if not torch.equal(wanted, obtained):
        raise InvalidArgument("What transformers wrote computes other logits than what it read.")


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Its warnings are checked here and told as errors; its progress bars stay."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
