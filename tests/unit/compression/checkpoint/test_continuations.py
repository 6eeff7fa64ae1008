"""Greedy continuations against a plain loop of the original model, and their figures by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from service.compression.checkpoint.continuations import agreement_lengths, continue_text, distinct, greedy, repetition
from service.compression.states.lm_head import find_lm_head
from service.ports.engine import EngineOutcome, EngineTask
from tests.tiny_models import make_model

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]

WINDOWS = torch.randint(1, 264, (5, 24), generator=torch.Generator().manual_seed(0))


def plain_loop(model: Any, prompt: torch.Tensor, tokens: int) -> list[int]:
    """No cache, one prompt at a time."""
    ids = prompt[None]
    for _ in range(tokens):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, prompt.numel() :].tolist()


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_the_full_head_writes_what_the_plain_model_writes(family: str) -> None:
    model = make_model(family, tied=family == "gpt2")
    head = find_lm_head(model, {"input_ids": WINDOWS[:2]})
    fractions: list[float] = []
    found = continue_text(model, WINDOWS, head, 3, seed=1, progress=fractions.append)
    assert found.prompts.shape == found.before.shape == (3, 12)
    for prompt, written in zip(found.prompts, found.before.tolist(), strict=True):
        assert written == plain_loop(model, prompt, 12)
    assert torch.equal(found.before, found.after)  # nothing was removed: nothing differs
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert not model.get_output_embeddings()._forward_hooks


def test_another_head_writes_other_text_and_the_model_is_left_as_it_was() -> None:
    model = make_model()
    weight = torch.randn(264, 32, generator=torch.Generator().manual_seed(3))
    before = model(WINDOWS[:1]).logits
    written = greedy(model, WINDOWS[:2, :4], 6, lambda h: h @ weight.T, lambda done: None)
    assert torch.equal(model(WINDOWS[:1]).logits, before)
    original = model.get_output_embeddings().weight.data.clone()
    model.get_output_embeddings().weight = torch.nn.Parameter(weight)
    assert written.tolist() == [plain_loop(model, prompt, 6) for prompt in WINDOWS[:2, :4]]
    assert not torch.equal(original, weight)


def test_a_cancellation_comes_through_and_leaves_no_hook() -> None:
    model = make_model()

    def cancel(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        greedy(model, WINDOWS[:1, :4], 6, lambda h: h, cancel)
    assert not model.get_output_embeddings()._forward_hooks


def test_agreement_ends_at_the_first_token_that_differs() -> None:
    one = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [9, 2, 3, 4]])
    other = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 4], [1, 2, 3, 4]])
    assert agreement_lengths(one, other).tolist() == [4, 2, 0]


def test_repetition_and_distinct_by_hand() -> None:
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([7] * 10) == pytest.approx(6 / 7)  # seven runs of four, all the same
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([1, 2]) == 0.0
    assert distinct([[1, 1, 2], [1, 3]], 1) == pytest.approx(3 / 5)
    assert distinct([[1, 1, 2], [1, 3]], 2) == 1.0
    assert distinct([[1]], 2) == 0.0


def test_a_job_tells_how_the_stored_model_goes_on(make_task: MakeTask, run: Run) -> None:
    task = make_task(ratio=0.75, options={"continuations": 3})
    found = run(task).report["continuations"]
    assert (found["prompts"], found["prompt_tokens"], found["new_tokens"]) == (3, 16, 16)
    assert found["agreement_length_low"] <= found["agreement_length_mean"] <= found["agreement_length_high"] <= 16
    assert 0 < found["before"]["distinct_1"] <= 1
    assert len(found["samples"]) == 2
    assert found["samples"][0]["prompt"] in task.corpus.path.read_text()


def test_continuations_can_be_switched_off(make_task: MakeTask, run: Run) -> None:
    assert run(make_task(options={"continuations": 0})).report["continuations"] is None
