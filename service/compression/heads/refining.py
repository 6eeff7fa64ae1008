"""Kept columns trained further: the full head is distilled into them, KL(full || kept) on cached calibration positions.

The closed form is the best head of its rank in a squared error; this goes on from there in the error that counts. Every
eighth window is held out: training stops when its KL no longer falls, and the closed form stays if nothing helped.
Hidden states never change, so neither the backbone nor a model is needed. A table that the input embedding shares is
left alone: then only the projection and the bias are trained.

Cost: two products positions x (hidden + kept) x vocabulary for each step, and their gradients. Memory: the trained
tensors in float32 four times, ROWS_AT_ONCE rows of logits, and POSITIONS hidden states.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from headroom.contract.report.stored import RefinementOfReport
from headroom.operator_threads import single_threaded_operators
from service.compression.heads.slicing import SlicedFactors
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead

Result = TypeVar("Result")

STEPS = 150
POSITIONS_OF_STEP = 256
POSITIONS = 16_384  # at most so many are drawn from the calibration
HELD_OUT = 8  # every eighth window
CHECK_EVERY = 15  # steps
PATIENCE = 3  # checks without a lower KL
ROWS_AT_ONCE = 64
# Adam moves each number by about its rate: for matrices a share of their root mean square, for the bias logits.
MATRIX_RATE, BIAS_RATE = 4e-3, 4e-3


@dataclass(frozen=True)
class Refinement:
    """Gain of training, on windows that it did not see. KL in nats per token."""

    steps: int
    positions: int
    held_out_positions: int
    kl_before: float
    kl_after: float  # equal to kl_before where the closed form was kept
    helped: bool

    @property
    def told(self) -> RefinementOfReport:
        """The refinement as the report has it."""
        return RefinementOfReport(**asdict(self))


def refine(
    factors: SlicedFactors,
    head: LmHead,
    calibration: HiddenStates,
    *,
    shares_table: bool,
    seed: int,
    device: torch.device,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[SlicedFactors, Refinement]:
    """The trained factors in the dtype of the given ones, or the given ones. calibration: at least two windows."""
    hidden, windows = _draw(calibration, seed)
    held = windows % HELD_OUT == 0
    train, test = hidden[~held], hidden[held]
    distilled = _Distilled(factors, head, shares_table, device)
    best, before = distilled.stored(), distilled.divergence(test)
    if not train.shape[0] or not test.shape[0] or not math.isfinite(before):
        return factors, Refinement(0, train.shape[0], test.shape[0], before, before, False)
    least, waited, step = before, 0, 0
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(distilled.optimizer, STEPS)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, STEPS + 1):
        chosen = torch.randint(train.shape[0], (POSITIONS_OF_STEP,), generator=generator)
        distilled.step(train[chosen])
        rate.step()
        progress(step / STEPS)
        if step % CHECK_EVERY == 0:
            candidate = distilled.stored()
            found = distilled.divergence(test, candidate)
            waited = 0 if found < least else waited + 1
            if found < least:
                best, least = candidate, found
            if waited == PATIENCE:
                break
    progress(1.0)
    figures = Refinement(step, train.shape[0], test.shape[0], before, least, least < before)
    if not figures.helped:
        return factors, figures
    # The triangle tells how to read other sizes of the closed form; of this head there is one size only.
    trained = replace(
        factors,
        weight=best.get("weight", factors.weight),
        projection=best.get("projection"),
        bias=best.get("bias"),
        triangle=None,
        refined=True,
    )
    return trained, figures


def _draw(calibration: HiddenStates, seed: int) -> tuple[Tensor, Tensor]:
    """(positions, hidden) in the model's dtype, at most POSITIONS of them, seeded; (positions,) their windows."""
    windows = torch.repeat_interleave(torch.arange(calibration.lengths.numel()), calibration.lengths)
    order = (
        torch.randperm(calibration.positions, generator=torch.Generator().manual_seed(seed))[:POSITIONS].sort().values
    )
    rows, start = [], 0
    for block in calibration.blocks(4096):
        here = order[(order >= start) & (order < start + block.shape[0])] - start
        rows.append(block[here])
        start += block.shape[0]
    return torch.cat(rows), windows[order]


class _Distilled:
    """The factors as float32 parameters on the device, beside the full head."""

    def __init__(self, factors: SlicedFactors, head: LmHead, shares_table: bool, device: torch.device) -> None:
        self._factors, self._head, self._device = factors, head, device
        self._full = head.weight.to(device, torch.float32)
        own = torch.zeros(head.vocab_size, device=device)
        self._own_bias = own if head.module_bias is None else head.module_bias.to(device, torch.float32)
        trained = {"weight": None if shares_table else factors.weight, "projection": factors.projection}
        trained["bias"] = factors.bias
        self.parameters = {
            name: tensor.to(device, torch.float32, copy=True).requires_grad_()
            for name, tensor in trained.items()
            if tensor is not None
        }
        self._fixed = factors.weight.to(device, torch.float32) if shares_table else None
        rates = {
            name: BIAS_RATE if name == "bias" else MATRIX_RATE * float(tensor.detach().square().mean().sqrt())
            for name, tensor in self.parameters.items()
        }
        groups = [{"params": [tensor], "lr": rates[name]} for name, tensor in self.parameters.items()]
        self.optimizer = torch.optim.Adam(groups)

    def step(self, hidden: Tensor) -> None:
        """One step of Adam on the mean KL of (positions, hidden), a few rows of logits at a time."""
        parameters = list(self.parameters.values())

        def gradients(rows: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(self._divergence(rows, self.parameters).sum() / hidden.shape[0], parameters)

        self.optimizer.zero_grad()
        for found in self._side_by_side(gradients, hidden):
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        self.optimizer.step()

    def divergence(self, hidden: Tensor, stored: dict[str, Tensor] | None = None) -> float:
        """Mean KL over (positions, hidden) as `stored` would give it, in its dtype; None: of the factors as given."""
        given = {name: getattr(self._factors, name) for name in self.parameters}
        values = {name: tensor.to(self._device, torch.float32) for name, tensor in (stored or given).items()}
        parts = self._side_by_side(torch.no_grad()(lambda rows: self._divergence(rows, values).sum().item()), hidden)
        return sum(parts) / max(hidden.shape[0], 1)

    def _side_by_side(self, work: Callable[[Tensor], Result], hidden: Tensor) -> list[Result]:
        """work(rows) for every ROWS_AT_ONCE of (positions, hidden), in order; on a CPU one block a thread."""
        if self._device.type != "cpu":
            return [work(rows) for rows in hidden.split(ROWS_AT_ONCE)]
        with single_threaded_operators() as threads, ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, hidden.split(ROWS_AT_ONCE)))

    def stored(self) -> dict[str, Tensor]:
        """The parameters as they would be stored: on the CPU, in the dtype of the given factors."""
        found = {}
        for name, tensor in self.parameters.items():
            found[name] = tensor.detach().to("cpu", getattr(self._factors, name).dtype, copy=True)
        return found

    def _divergence(self, hidden: Tensor, values: dict[str, Tensor]) -> Tensor:
        """(rows,) KL(full || kept)."""
        rows = hidden.to(self._device, torch.float32)
        with torch.no_grad():
            full = self._head.logits_of(rows @ self._full.T + self._own_bias).log_softmax(1)
        if "projection" in values:
            columns = rows @ values["projection"].T
        else:
            assert self._factors.order is not None
            columns = rows[:, self._factors.order[: self._factors.kept].to(self._device)]
        weight = values.get("weight", self._fixed)
        assert weight is not None
        output = columns @ weight.T
        kept = self._head.logits_of(output + values["bias"] if "bias" in values else output).log_softmax(1)
        return (full.exp() * (full - kept)).sum(1)
