"""Registers the `headroom` checkpoint format with transformers, the way its own compressed formats are registered.

Imported by headroom/__init__.py once transformers is there. It changes nothing for models of other formats.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from headroom.loading.head import (
    FORMAT_VERSION,
    SameEmbedding,
    SlicedEmbedding,
    SlicedHead,
    fingerprint_inputs,
    require_fingerprint,
)
from headroom.loading.planes_format import (
    PLANES_VERSION,
    check,
    check_files,
    check_scales,
    planes_embedding,
    planes_head,
)
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead, SamePlanes
from headroom.loading.quantized_head import PackedHead, QuantizedHead, RoundedHead

PLANES_FIELDS = ("whole_columns", "bits", "rescored", "preview_columns", "group", "unbasis", "mean_hidden")
ROUNDED_HEADS: dict[str, type[RoundedHead]] = {"int8": QuantizedHead, "int4": PackedHead}


@register_quantization_config("headroom")
class HeadroomConfig(QuantizationConfigMixin):  # type: ignore[misc]  # transformers is untyped here
    """`quantization_config` of config.json. Field meanings: docs/checkpoint-format.md."""

    def __init__(
        self,
        *,
        version: int,
        method: str,
        hidden_size: int,
        vocab_size: int,
        kept_columns: int,
        permutation: bool = False,
        tied: bool,
        bias: bool,
        lm_head: str,
        embed_tokens: str,
        embed_scale: float = 1.0,
        source_bias: bool = False,
        source_tied: bool = False,
        source_tie_word_embeddings: bool | None = None,
        source_names: dict[str, Any] | None = None,
        nested: bool = False,
        mean_repaired: bool = False,
        head_dtype: str = "source",
        refined: bool = False,
        transform: dict[str, float | None] | None = None,
        fingerprint: dict[str, Any] | None = None,
        quant_method: str = "headroom",
        head: str = "sliced",
        **planes: Any,
    ) -> None:
        """planes: the fields of version 2 (planes_format.py)."""
        if version not in (FORMAT_VERSION, PLANES_VERSION):
            raise ValueError(
                f"this checkpoint is of headroom format {version}, this package reads {FORMAT_VERSION} and "
                f"{PLANES_VERSION}: install the headroom-lm release named in its README"
            )
        if head_dtype not in ("source", *ROUNDED_HEADS) or (head == "planes") is not (version == PLANES_VERSION):
            unread = head_dtype if head in ("sliced", "planes") else head
            raise ValueError(f"this package does not read heads of {unread}: install a newer headroom-lm")
        self.quant_method = quant_method
        self.version = version
        self.method = method
        self.hidden_size = hidden_size
        self.vocab_size = vocab_size
        self.kept_columns = kept_columns
        self.permutation = permutation
        self.tied = tied
        self.bias = bias
        self.lm_head = lm_head
        self.embed_tokens = embed_tokens
        self.embed_scale = embed_scale
        self.source_bias = source_bias
        self.source_tied = source_tied
        self.source_tie_word_embeddings = source_tie_word_embeddings
        self.source_names = source_names
        self.nested = nested
        self.mean_repaired = mean_repaired
        self.head_dtype = head_dtype
        self.refined = refined
        self.transform = transform
        self.fingerprint = fingerprint
        if version == PLANES_VERSION:
            self.head = head
            for name in PLANES_FIELDS:
                if name not in planes:
                    raise ValueError(f"this checkpoint's config.json is damaged: {name} is missing")
                setattr(self, name, planes.pop(name))
            check(self)
        if planes:  # a field that this package does not know may change what the tensors mean
            raise ValueError(f"this package does not know {', '.join(sorted(planes))}: install a newer headroom-lm")

    @property
    def is_planes(self) -> bool:
        return self.version == PLANES_VERSION


@register_quantizer("headroom")
class HeadroomQuantizer(HfQuantizer):  # type: ignore[misc]
    """Swaps the modules in before the weights are read, and checks the fingerprint after."""

    quantization_config: HeadroomConfig

    def _convert_model_for_quantization(self, model: Any) -> None:
        """Nothing: patching experts is for formats that quantise them, and transformers 4 needs accelerate for it."""

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        config = self.quantization_config
        plain_head = dict(model.named_modules()).get(config.lm_head)
        if plain_head is None:
            raise ValueError(f"a headroom checkpoint is a whole language model; {type(model).__name__} has no head")
        self._plain_head_has_bias = getattr(plain_head, "bias", None) is not None
        self._plain_embedding_class = type(model.get_submodule(config.embed_tokens))
        parameters = model.named_parameters(remove_duplicate=False)
        holders = [name.rpartition(".")[0] for name, value in parameters if value is getattr(plain_head, "bias", None)]
        if config.is_planes:
            files = kwargs.get("checkpoint_files") or []
            check_files(config, [file for file in files if str(file).endswith(".safetensors")])
        with torch.device("meta"):
            _swap(model, *_modules(config, model), config)
        for holder in holders:  # transformers 4 builds RoBERTa's head and its parent with one bias
            model.get_submodule(holder).bias = model.get_submodule(config.lm_head).bias
        if not config.tied:
            getattr(model, "all_tied_weights_keys", {}).pop(f"{config.lm_head}.weight", None)
        elif config.is_planes:  # the modules share their planes themselves: there is no weight that could be tied
            keys, shared = getattr(model, "all_tied_weights_keys", {}), f"{config.embed_tokens}.weight"
            for target in [target for target, source in keys.items() if shared in (target, source)]:
                del keys[target]

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        head = model.get_submodule(self.quantization_config.lm_head)
        if isinstance(head, PlanesHead):
            check_scales(head.table)
            head.prepare()
        if self.quantization_config.fingerprint is not None:
            with head.answering_once() if isinstance(head, (PlanesHead, RoundedHead)) else nullcontext():
                check_fingerprint(model, self.quantization_config.fingerprint)
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | str | None = None) -> Any:
        """Dense modules of the same function: the head full width and of rank k, untied from the input table."""
        config = self.quantization_config
        head = model.get_submodule(config.lm_head)
        # save_pretrained leaves the dtype's name in the config, and the base class hands it on as it is.
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        linear = _dense_linear(head).to(dtype)
        if linear.bias is not None and not self._plain_head_has_bias:
            warnings.warn(
                "the dense head has a bias (mean repair) that this architecture's own class cannot load: it works in "
                "this process, but is lost when the dense model is saved and loaded again",
                stacklevel=2,
            )
        embedding = None
        if config.tied:
            sliced = model.get_submodule(config.embed_tokens)
            embedding = _dense_embedding(sliced, self._plain_embedding_class).to(dtype)
        _swap(model, linear, embedding, config)
        untie(model, config.lm_head)
        return model.to(dtype)

    def get_state_dict_and_metadata(self, model: Any, *args: Any) -> tuple[None, dict[str, Any]]:
        """No tensors of its own. Called when saving: the fingerprint is taken anew, of the weights as they are then."""
        fingerprint = self.quantization_config.fingerprint
        if fingerprint is not None:
            head = model.get_submodule(self.quantization_config.lm_head)
            was_training = model.training
            with _as_stored(head):
                fingerprint["logits"] = fingerprint_of(model.eval(), fingerprint["input_ids"])
            model.train(was_training)
        return None, {}

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


@contextmanager
def _as_stored(head: nn.Module) -> Iterator[None]:
    """What is saved is the head as it was stored, whatever set_kept_columns or set_head did."""
    if isinstance(head, PlanesHead):
        setting = head.bits, head.rescored, head.preview_columns
        head.read(*head.stored_setting)
        yield
        head.read(*setting)
    elif isinstance(head, SlicedHead):
        reading, head.reading = head.reading, None
        yield
        head.reading = reading
    else:
        yield


def _modules(config: HeadroomConfig, model: Any) -> tuple[nn.Module, nn.Module | None]:
    """(head, input embedding or None where it stays)."""
    if config.is_planes:
        table = planes_embedding(config, model.get_input_embeddings()) if config.tied else None
        return planes_head(config, table), table
    return sliced_head(config), sliced_embedding(config, model) if config.tied else None


def sliced_head(config: HeadroomConfig) -> SlicedHead | RoundedHead:
    rounded = ROUNDED_HEADS.get(config.head_dtype)
    if rounded is not None:
        return rounded(config.hidden_size, config.vocab_size, config.kept_columns, bias=config.bias)
    return SlicedHead(
        config.hidden_size,
        config.vocab_size,
        config.kept_columns,
        permutation=config.permutation,
        bias=config.bias,
        held=(config.hidden_size if config.tied else config.kept_columns) if config.nested else None,
        mean_repaired=config.mean_repaired,
    )


def sliced_embedding(config: HeadroomConfig, model: Any) -> SlicedEmbedding:
    plain = model.get_input_embeddings()
    return SlicedEmbedding(
        config.vocab_size,
        config.hidden_size,
        config.kept_columns,
        permutation=config.permutation,
        # transformers 4 scales Gemma 2 in the model, 5 in the embedding: only what the replaced one did is done.
        scale=1.0 if type(plain) is nn.Embedding else config.embed_scale,
        padding_idx=getattr(plain, "padding_idx", None),
    )


def fingerprint_of(model: Any, input_ids: list[int]) -> list[float]:
    """Logits after the last of `input_ids`, at those same ids: a few numbers that depend on every part of the model."""
    device = model.get_input_embeddings().weight.device
    with torch.no_grad():
        logits = model(**fingerprint_inputs(model, torch.tensor([input_ids], device=device))).logits[0, -1].float()
    return [float(value) for value in logits[torch.tensor(input_ids, device=logits.device)]]


def check_fingerprint(model: Any, fingerprint: dict[str, Any]) -> None:
    """ValueError unless the model reproduces the stored logits. Catches weights that were re-initialised on load."""
    found = torch.tensor(fingerprint_of(model, fingerprint["input_ids"]))
    require_fingerprint(found, fingerprint["logits"], model.dtype)


def _swap(model: Any, head: nn.Module, embedding: nn.Module | None, config: HeadroomConfig) -> None:
    model.set_submodule(config.lm_head, head)
    if embedding is not None:
        model.set_input_embeddings(embedding)
        if isinstance(embedding, (SlicedEmbedding, PlanesEmbedding)):
            for name, module in list(model.named_modules(remove_duplicate=False)):
                if module is embedding and name != config.embed_tokens:
                    is_planes = isinstance(embedding, PlanesEmbedding)
                    model.set_submodule(name, SamePlanes(embedding) if is_planes else SameEmbedding(embedding))


def untie(model: Any, lm_head: str) -> None:
    """The head has a table of its own from now on."""
    keys = getattr(model, "all_tied_weights_keys", {})
    # In an encoder-decoder the same setting says that its two halves share their input table (and T5 scales by it).
    if model.config.is_encoder_decoder:
        keys.pop(f"{lm_head}.weight", None)
    else:
        keys.clear()
        model.config.tie_word_embeddings = False


def _dense_linear(head: SlicedHead | RoundedHead | PlanesHead) -> nn.Linear:
    dense = head.dense_weight()
    linear = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
    linear.weight = nn.Parameter(dense, requires_grad=False)
    if head.bias is not None:
        # A copy: BERT knows it by a second name, under which a dense, untied model would not look for it.
        linear.bias = nn.Parameter(head.bias.detach().clone(), requires_grad=False)
    return linear


def _dense_embedding(embedding: SlicedEmbedding | PlanesEmbedding, plain_class: type[nn.Embedding]) -> nn.Module:
    """A module of the class that the model's own code would build, so that saving and loading it works as before."""
    scale = {} if plain_class is nn.Embedding else {"embed_scale": embedding.scale}
    sizes = (embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx)
    dense = plain_class(*sizes, **scale)  # type: ignore[arg-type]  # the scaled classes share this signature
    dense.weight = nn.Parameter(embedding.dense_weight().detach(), requires_grad=False)
    return dense
