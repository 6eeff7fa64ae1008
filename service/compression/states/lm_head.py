"""The output head of a loaded model: what it is, and whether f(W h + b) is really what the model computes.

No per-family code: the head is what `get_output_embeddings()` returns, h is what enters it, and f is found by
comparing with the model's own logits; so is a constant that the model adds after its head. Nothing is changed here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from service.compression.states.hidden_states import forward, hidden_states_of
from service.compression.states.library_errors import fact_of
from service.foundation.errors import ModelDrift, UnsupportedHead, UnsupportedModel

# Share of the logits' magnitude by which our product may differ from the model's own, by the model's dtype.
CONTRACT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 2e-2, torch.float16: 4e-3}


ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Transform:
    """f(z) = cap * tanh(scale * z / cap), or scale * z without a cap."""

    scale: float = 1.0
    soft_cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        if self.soft_cap is None:
            return logits if self.scale == 1.0 else logits * self.scale
        return torch.tanh(logits * (self.scale / self.soft_cap)) * self.soft_cap

    def describe(self) -> dict[str, Any]:
        return {"scale": self.scale, "soft_cap": self.soft_cap}


@dataclass(frozen=True)
class StoredNames:
    """The checkpoint's own names of the head's parameters, first the one whose bytes the model uses.

    transformers renames some tensors when it loads them (`embed_out` of GPT-NeoX becomes `lm_head`).
    """

    weight: tuple[str, ...]  # of a tied head: the table's names, under the embedding or the head or both
    bias: tuple[str, ...]
    embed: tuple[str, ...]  # of the input embedding; may be empty where it is tied
    head: tuple[str, ...] = ()  # under which a head of its own is saved; empty: as its module is called
    outside: tuple[str, ...] = ()  # of the constant that is added after the head


@dataclass(frozen=True, eq=False)
class LmHead:
    """logits = transform(weight @ h + bias)."""

    weight: Tensor  # (vocab, hidden), the model's own storage and dtype
    module_bias: Tensor | None  # (vocab,) the part of the bias that the head module holds
    transform: Transform
    name: str  # module name in the model, e.g. "lm_head"
    embed_name: str  # module name of the input embedding
    is_tied: bool
    embed_scale: float  # what the input embedding multiplies its rows by
    outside: Tensor | None = None  # (vocab,) the part of the bias that the model's own code adds after the module
    outside_name: str | None = None  # of that tensor in the model

    @property
    def bias(self) -> Tensor | None:
        """(vocab,) everything that is added to W h, whoever adds it."""
        if self.outside is None or self.module_bias is None:
            return self.module_bias if self.outside is None else self.outside
        return self.module_bias + self.outside

    def logits_of(self, output: Tensor) -> Tensor:
        """Logits that the model makes of its head module's output, (..., vocab)."""
        return self.transform(output if self.outside is None else output + self.outside.to(output.device))

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, hidden) -> (rows, vocab) float32, on its device; the columns are never in float32 all at once."""
        rows = hidden.float()
        found = torch.empty(rows.shape[0], self.vocab_size, device=hidden.device)
        parts = zip(self.weight.split(ROWS_AT_ONCE), found.split(ROWS_AT_ONCE, dim=1), strict=True)
        for weight, into in parts:
            into.copy_(rows @ weight.to(hidden.device, torch.float32).T)
        return self.logits_of(found if self.module_bias is None else found + self.module_bias.to(hidden.device).float())

    @property
    def vocab_size(self) -> int:
        return self.weight.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.weight.shape[1]


def find_lm_head(model: Any, sample: dict[str, Tensor]) -> LmHead:
    """The checked head of `model`. sample: model inputs of a few windows of real text.

    UnsupportedHead when the model has none, when it is no plain matrix, or when no scale, soft cap or constant of the
    model explains the difference between W h + b and its logits.
    """
    try:
        module, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    except (AttributeError, NotImplementedError) as error:
        raise UnsupportedHead("the model does not tell its input table and its output matrix") from error
    if not isinstance(getattr(embedding, "weight", None), Tensor):
        raise UnsupportedHead("the model has no plain input table (get_input_embeddings() gives none)")
    if module is None or not isinstance(getattr(module, "weight", None), Tensor) or module.weight.ndim != 2:
        raise UnsupportedHead("the model has no plain output matrix (get_output_embeddings() gives none)")
    if not module.weight.is_floating_point() or type(module) is not nn.Linear:
        raise UnsupportedHead(
            f"the output head is a {type(module).__name__}; only an unquantised linear head can be sliced"
        )
    tied = module.weight.data_ptr() == embedding.weight.data_ptr()
    transform, added = _check_contract(model, module, sample)
    return LmHead(
        weight=module.weight.detach(),
        module_bias=module.bias.detach() if module.bias is not None else None,
        transform=transform,
        name=_module_name(model, module),
        embed_name=_module_name(model, embedding),
        is_tied=tied,
        embed_scale=_embedding_scale(embedding, sample["input_ids"]) if tied else 1.0,
        outside=outside_of(added[1], transform) if added else None,
        outside_name=added[0] if added else None,
    )


def outside_of(added: Tensor, transform: Transform) -> Tensor:
    """An addend of the logits as a part of the bias: before the scale. added: V elements, of any dtype."""
    return added.detach().float().flatten() / transform.scale


def _module_name(model: Any, wanted: nn.Module) -> str:
    for name, module in model.named_modules():
        if module is wanted:
            return str(name)
    raise UnsupportedHead(f"a {type(wanted).__name__} that the model uses is no part of it")


@torch.inference_mode()
def _check_contract(
    model: Any, module: nn.Linear, sample: dict[str, Tensor]
) -> tuple[Transform, tuple[str, Tensor] | None]:
    """f, and the constant that the model adds to f's result, with its name."""
    hidden, own = _run(model, sample)
    if hidden.shape[-1] != module.weight.shape[1]:
        raise UnsupportedHead(f"{hidden.shape[-1]} numbers enter a head of {module.weight.shape[1]} columns")
    bias = None if module.bias is None else module.bias.float()
    linear = nn.functional.linear(hidden.float(), module.weight.float(), bias)
    if own.shape != linear.shape:
        raise UnsupportedHead(f"the model's logits have shape {tuple(own.shape)}, its head gives {tuple(linear.shape)}")
    tolerance = CONTRACT_TOLERANCE.get(module.weight.dtype, 1e-4) * max(float(own.abs().max()), 1e-6)
    if not torch.isfinite(own).all():
        raise ModelDrift("the model's own logits on this corpus are not numbers: its weights are damaged")
    constants = _constants(model, module)
    least = float("inf")
    for transform in [*_declared(model), Transform(), Transform(scale=_fitted_scale(own, linear))]:
        residual = transform(linear) - own
        difference, added = float(residual.abs().max()), None
        for name, constant in constants if transform.soft_cap is None else []:
            with_constant = float((residual + constant.float().flatten()).abs().max())
            if with_constant < difference:
                difference, added = with_constant, (name, constant)
        if difference <= tolerance:
            return transform, added
        least = min(least, difference)
    raise UnsupportedHead(
        f"the head is not f(W h + b) with f a scale or a soft cap, nor that and a constant of the model: the model's "
        f"own logits differ by up to {least:.3g} (allowed {tolerance:.3g})"
    )


def _run(model: Any, sample: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """h, (windows, positions, hidden), and the model's own logits in float32. UnsupportedModel if it cannot be run."""
    try:
        return hidden_states_of(model, sample), forward(model, sample).logits.float()
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError" or "memory" in str(error).lower():
            raise
        raise UnsupportedModel(f"the model does not run on text alone: {fact_of(error)}") from error


def _constants(model: Any, module: nn.Linear) -> list[tuple[str, Tensor]]:
    """Everything in the model that could be added to its logits, but the head's own bias; zeros would add nothing."""
    rows, own = module.weight.shape[0], None if module.bias is None else module.bias.data_ptr()
    tensors = [*model.named_buffers(), *model.named_parameters()]
    return [
        (name, tensor)
        for name, tensor in tensors
        if tensor.numel() == rows
        and tensor.is_floating_point()
        and not tensor.is_meta
        and tensor.data_ptr() != own
        and tensor.any()
    ]


def _declared(model: Any) -> list[Transform]:
    """What the config says, first: on small logits a soft cap and none agree within the tolerance."""
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    scale, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
    found = [Transform(soft_cap=float(cap))] if cap else []
    found += [Transform(scale=float(scale))] if scale else []
    return found + ([Transform(scale=1 / float(divisor))] if divisor else [])


def _fitted_scale(own: Tensor, linear: Tensor) -> float:
    """Least squares of own = scale * linear, rounded to five digits: a config's scale is a short number."""
    scale = float((own.double() * linear.double()).sum() / linear.double().square().sum().clamp_min(1e-30))
    return float(f"{scale:.5g}")


@torch.inference_mode()
def _embedding_scale(embedding: nn.Module, sample_ids: Tensor) -> float:
    weight = embedding.weight
    assert isinstance(weight, Tensor)
    rows = weight[sample_ids.flatten()].double()
    out = embedding(sample_ids.flatten()).double()
    scale = float((rows * out).sum() / rows.square().sum().clamp_min(1e-30))
    return 1.0 if abs(scale - 1.0) < 1e-6 else float(getattr(embedding, "scalar_embed_scale", scale))
