"""Watch the drift of a head while it serves: against the head that reads everything, on a small sample of positions.

A sliced head needs the columns that were removed for that: a tied model holds them in its input table; for others give
the original matrix. A head in planes holds all of its bits. Sampling skips a geometric number of positions at a time,
so that an unsampled token costs a subtraction. Changes nothing unless it is told to adjust the head.
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from headroom.errors import InvalidArgument
from headroom.loading.watched_heads import WatchedHead, watched_head

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stats:
    """What was seen so far. KL(full || served) in nats; None before the first sampled position."""

    positions: int  # sampled
    kl_mean: float | None
    kl_recent: float | None  # over the last `window` sampled positions
    top1_agreement: float | None
    alarms: int
    kept_columns: int  # read at that time
    reads: str  # at that time, in words


def monitor(
    model: Any,
    sample_rate: float = 0.01,
    *,
    kl_budget: float = 0.02,
    window: int = 256,
    on_alarm: Callable[[Stats], None] | None = None,
    adjust: bool = False,
    full_weight: Tensor | None = None,
    seed: int = 0,
) -> "Monitor":
    """Start to sample the positions that pass through the head of a loaded model; close() or a `with` block ends it.

    An alarm is a mean KL over the last `window` sampled positions above `kl_budget` (nats a token): `on_alarm` is
    called with the figures and the window starts anew. With `adjust` the head then reads more, and a warning of the log
    says what: a sliced head an eighth of its columns, one in planes twice the rescored rows, and when they are many,
    more bits. full_weight: (vocab, hidden), the original lm_head.weight, for a sliced head whose input table does not
    hold it. InvalidArgument if nothing tells the full head.
    """
    if not 0 < sample_rate <= 1:
        raise InvalidArgument(f"A sample rate is above 0 and at most 1, not {sample_rate}.")
    if window < 1:
        raise InvalidArgument(f"A window has at least one position, not {window}.")
    head = watched_head(model, full_weight)
    if adjust and not head.can_read_more():
        raise InvalidArgument(f"This head holds no more than it reads: {head.reads()}. There is nothing to adjust.")
    return Monitor(model, head, sample_rate, kl_budget, window, on_alarm, adjust, seed)


class Monitor:
    """A running watch over one model. Its figures may be read from any thread."""

    def __init__(
        self,
        model: Any,
        head: WatchedHead,
        sample_rate: float,
        kl_budget: float,
        window: int,
        on_alarm: Callable[[Stats], None] | None,
        adjust: bool,
        seed: int,
    ) -> None:
        self._head = head
        self._rate = sample_rate
        self._budget = kl_budget
        self._on_alarm = on_alarm
        self._adjust = adjust
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=window)
        self._positions = self._agreed = self._alarms = 0
        self._total = 0.0
        self._transform = _transform_of(model)
        self._skip = self._gap()
        self._handle = head.module.register_forward_hook(self._observe)

    @property
    def stats(self) -> Stats:
        with self._lock:
            return self._figures()

    def close(self) -> None:
        """Stop watching; the figures stay."""
        self._handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _observe(self, module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        passed = inputs[0].numel() // self._head.hidden_size
        with self._lock:
            chosen = []
            while self._skip < passed:
                chosen.append(self._skip)
                self._skip += 1 + self._gap()
            self._skip -= passed
        if chosen:
            self._measure(inputs[0].reshape(passed, -1)[chosen], logits.reshape(passed, -1)[chosen])

    @torch.no_grad()
    def _measure(self, hidden: Tensor, served: Tensor) -> None:
        """hidden: (sampled, hidden); served: (sampled, vocab) logits as they were given."""
        full = self._transform(self._head.full_logits(hidden).float())
        served = self._transform(served.float())
        log_p = full.log_softmax(-1)
        divergence = (log_p.exp() * (log_p - served.log_softmax(-1))).sum(-1).tolist()
        agreed = int((full.argmax(-1) == served.argmax(-1)).sum())
        with self._lock:
            self._positions += len(divergence)
            self._agreed += agreed
            self._total += sum(divergence)
            self._recent.extend(divergence)
            over = len(self._recent) == self._recent.maxlen and _mean(self._recent) > self._budget
            if not over:
                return
            self._alarms += 1
            figures = self._figures()
            self._recent.clear()
            if self._adjust:
                self._read_more(figures)
        if self._on_alarm is not None:
            self._on_alarm(figures)

    def _read_more(self, figures: Stats) -> None:
        self._head.read_more()
        now = self._head.reads()
        if now != figures.reads:
            log.warning("KL %.4f is above its budget of %g: from now on %s", figures.kl_recent, self._budget, now)

    def _gap(self) -> int:
        """Positions to pass over before the next sampled one: geometric, so that each has the same chance."""
        count = 0
        while self._random.random() >= self._rate:
            count += 1
        return count

    def _figures(self) -> Stats:
        seen = self._positions
        return Stats(
            positions=seen,
            kl_mean=self._total / seen if seen else None,
            kl_recent=_mean(self._recent) if self._recent else None,
            top1_agreement=self._agreed / seen if seen else None,
            alarms=self._alarms,
            kept_columns=self._head.columns(),
            reads=self._head.reads(),
        )


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values)


def _transform_of(model: Any) -> Callable[[Tensor], Tensor]:
    """What the model does with the head's logits, as the checkpoint says."""
    stated = getattr(getattr(model.config, "quantization_config", None), "transform", None) or {}
    scale, cap = stated.get("scale", 1.0), stated.get("soft_cap")
    if cap is None:
        return lambda logits: logits * scale
    return lambda logits: torch.tanh(logits * (scale / cap)) * cap
