"""What two heads take for a token, side by side."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from service.compression.states.decoding_cost import BATCHES, HEAD_SECONDS, HEAD_STEPS, WARM_STEPS, seconds_of_heads


def waiting(seconds: float, calls: list[int]) -> Callable[[Tensor], Tensor]:
    def head(rows: Tensor) -> Tensor:
        calls.append(rows.shape[0])
        time.sleep(seconds)
        return rows

    return head


def test_each_head_is_timed_at_each_batch_and_in_turns() -> None:
    quick: list[int] = []
    slow: list[int] = []
    found = seconds_of_heads(waiting(0.002, quick), waiting(0.006, slow), torch.zeros(8, 4))
    assert [one.batch for one in found] == list(BATCHES)
    assert quick == slow
    for one in found:
        assert one.before >= 0.002
        assert one.after >= 0.006
        assert one.after > 1.5 * one.before


def test_a_slow_head_gets_fewer_steps() -> None:
    calls: list[int] = []
    seconds_of_heads(waiting(HEAD_SECONDS / 4, calls), waiting(0.0, []), torch.zeros(8, 4))
    assert len(calls) == pytest.approx(5 * len(BATCHES), abs=2)
    assert len(calls) < HEAD_STEPS + WARM_STEPS
