"""The tiled sweep against a slow loop over full logits, and the identity that nothing removed changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from headroom.contract.compress import Method
from service.compression.drift.drift_points import baseline_perplexity
from service.compression.drift.sweep import prepare, sweep
from service.compression.heads.basis import Basis, build_basis
from service.compression.heads.slicing import nested_logits, slice_head
from service.compression.numerics.tiles import Tiles
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead, Transform
from service.compression.states.statistics import Statistics, calibrate, neg_log_alpha
from service.compression.text.examples import next_token_examples

VOCAB, HIDDEN, WINDOWS, WINDOW = 100, 16, 6, 11
CPU = torch.device("cpu")
TRANSFORMS = [Transform(), Transform(scale=0.25), Transform(soft_cap=12.0)]


def make_hidden(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[HiddenStates, Tensor]:
    """Correlated hidden states with a mean and one direction that LayerNorm would make void."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(HIDDEN, HIDDEN, generator=generator)
    h = torch.randn(WINDOWS * (WINDOW - 1), HIDDEN, generator=generator) @ mix * 0.3 + 0.5
    h = (h - h.mean(1, keepdim=True)).to(dtype)
    windows = torch.randint(VOCAB, (WINDOWS, WINDOW), generator=generator)
    path = folder / f"h-{seed}.bin"
    path.write_bytes(h.view(torch.uint8).numpy().tobytes())
    return HiddenStates(path, dtype, HIDDEN, next_token_examples(windows)), h


def make_head(transform: Transform = TRANSFORMS[0], bias: bool = True, dtype: torch.dtype = torch.float32) -> LmHead:
    generator = torch.Generator().manual_seed(1)
    weight = (torch.randn(VOCAB, HIDDEN, generator=generator)).to(dtype)
    own_bias = torch.randn(VOCAB, generator=generator).to(dtype) if bias else None
    return LmHead(weight, own_bias, transform, "lm_head", "embed", False, 1.0)


def make_statistics(hidden: HiddenStates, head: LmHead) -> Statistics:
    return calibrate(hidden, head, with_fisher=True, device=CPU, progress=lambda fraction: None)


def slow_logits(h: Tensor, head: LmHead, basis: Basis, mean: Tensor, kept: int, repair: bool) -> Tensor:
    """From the definition, in float64: z_k = U_k x_k + b + U_rest E[x_rest]."""
    if basis.order is not None:
        u, x, center = head.weight.double()[:, basis.order], h.double()[:, basis.order], mean[basis.order]
    else:
        assert basis.synthesis is not None
        assert basis.analysis is not None
        u, x = head.weight.double() @ basis.synthesis, h.double() @ basis.analysis.T
        center = basis.analysis @ mean
    z = x[:, :kept] @ u[:, :kept].T
    z = z if head.bias is None else z + head.bias.double()
    return head.transform(z + u[:, kept:] @ center[kept:] if repair else z)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("method", [Method.SLOPE, Method.PCA, Method.PROBABILITY])
def test_every_figure_agrees_with_a_slow_loop(
    tmp_path: Path, transform: Transform, repair: bool, method: Method
) -> None:
    hidden, h = make_hidden(tmp_path)
    head = make_head(transform)
    statistics = make_statistics(hidden, head)
    basis = build_basis(method, head.weight, statistics, seed=0)
    prepared = prepare(head, basis, statistics.mean_hidden, repair=repair, device=CPU)
    result = sweep(hidden, prepared, [1, 5, 12], tiles=Tiles(rows=7, columns=33))
    assert result.kept == [1, 5, 12, HIDDEN]
    full = slow_logits(h, head, basis, statistics.mean_hidden, HIDDEN, repair).log_softmax(1)
    for index, kept in enumerate(result.kept):
        log_q = slow_logits(h, head, basis, statistics.mean_hidden, kept, repair).log_softmax(1)
        loss = -log_q.gather(1, hidden.targets[:, None]).view(WINDOWS, -1).sum(1)
        torch.testing.assert_close(result.negative_log_likelihood[:, index], loss, rtol=1e-4, atol=1e-3)
        kl = (full.exp() * (full - log_q)).sum(1)
        torch.testing.assert_close(result.divergence[:, index].double(), kl, rtol=1e-3, atol=1e-4)
        same = (full.argmax(1) == log_q.argmax(1)).view(WINDOWS, -1).sum(1).double()
        torch.testing.assert_close(result.agreement[:, index], same)


@pytest.mark.parametrize("sampled", [300.0, -300.0])
@pytest.mark.parametrize("soft_cap", [None, 1000.0])
def test_logits_that_no_common_exponent_can_hold_are_summed_from_their_own_largest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampled: float, soft_cap: float | None
) -> None:
    """The one token that is sampled lies hundreds of nats from where the sums are."""
    monkeypatch.setattr("service.compression.drift.sweep.SAMPLED", 1)
    hidden, h = make_hidden(tmp_path)
    head = make_head(Transform(soft_cap=soft_cap))
    assert head.bias is not None
    head.bias[0] = sampled
    statistics = make_statistics(hidden, head)
    basis = build_basis(Method.PCA, head.weight, statistics, seed=0)
    prepared = prepare(head, basis, statistics.mean_hidden, repair=True, device=CPU)
    result = sweep(hidden, prepared, [3, 12], tiles=Tiles(rows=7, columns=33))
    for index, kept in enumerate(result.kept):
        log_q = slow_logits(h, head, basis, statistics.mean_hidden, kept, repair=True).log_softmax(1)
        loss = -log_q.gather(1, hidden.targets[:, None]).view(WINDOWS, -1).sum(1)
        torch.testing.assert_close(result.negative_log_likelihood[:, index], loss, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", list(Method))
def test_keeping_every_column_reproduces_the_original_logits(
    tmp_path: Path, method: Method, dtype: torch.dtype
) -> None:
    hidden, h = make_hidden(tmp_path, dtype)
    head = make_head(dtype=dtype)
    assert head.bias is not None
    statistics = make_statistics(hidden, head)
    basis = build_basis(method, head.weight, statistics, seed=0)
    prepared = prepare(head, basis, statistics.mean_hidden, repair=True, device=CPU)
    own = h.float() @ head.weight.float().T + head.bias.float()
    swept = (basis.coordinates(h) - prepared.center) @ prepared.columns.T + prepared.constant
    torch.testing.assert_close(swept, own, rtol=1e-4, atol=1e-3)
    factors = slice_head(head, basis, HIDDEN, statistics.mean_hidden, repair=True)
    assert factors.bias is not None
    stored = factors.project(h) @ factors.weight.float().T + factors.bias.float()
    tolerance = 1e-3 if dtype == torch.float32 else 0.15  # bfloat16 has 8 bits, and logits here reach 10
    torch.testing.assert_close(stored, own, rtol=tolerance, atol=tolerance)
    result = sweep(hidden, prepared, [HIDDEN])
    assert float(result.divergence.max()) == 0.0
    assert float(result.agreement.sum()) == hidden.positions


@pytest.mark.parametrize("method", list(Method))
def test_stored_factors_give_the_swept_logits_at_every_size(tmp_path: Path, method: Method) -> None:
    hidden, h = make_hidden(tmp_path)
    head = make_head(bias=False)
    statistics = make_statistics(hidden, head)
    basis = build_basis(method, head.weight, statistics, seed=0)
    for kept in (1, 7, 15):
        factors = slice_head(head, basis, kept, statistics.mean_hidden, repair=True)
        assert factors.bias is not None
        stored = factors.project(h) @ factors.weight.T + factors.bias
        slow = slow_logits(h, head, basis, statistics.mean_hidden, kept, repair=True)
        torch.testing.assert_close(stored.double(), slow, rtol=1e-3, atol=2e-3)
        assert factors.weight.shape[1] + factors.rest.shape[1] == HIDDEN


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("method", [Method.SLOPE, Method.PROBABILITY])
def test_logits_of_a_size_can_be_had_without_the_turned_columns(
    tmp_path: Path, transform: Transform, repair: bool, method: Method
) -> None:
    hidden, h = make_hidden(tmp_path)
    head = make_head(transform)
    mean = make_statistics(hidden, head).mean_hidden
    basis = build_basis(method, head.weight, make_statistics(hidden, head), seed=0)
    torch.testing.assert_close(basis.hidden_from(basis.coordinates(h.double())), h.double(), rtol=1e-6, atol=1e-6)
    for kept in (1, 7, HIDDEN):
        found = nested_logits(head, basis, kept, mean if repair else None, h)
        slow = slow_logits(h, head, basis, mean, kept, repair)
        torch.testing.assert_close(found.double(), slow, rtol=1e-4, atol=1e-4)


def test_the_probability_basis_is_the_best_of_its_rank_in_its_own_norm(tmp_path: Path) -> None:
    """Eckart-Young: no other rank-k head has a smaller probability-weighted, centred logit error on the calibration."""
    hidden, h = make_hidden(tmp_path)
    head = make_head(bias=False)
    statistics = make_statistics(hidden, head)
    alpha = statistics.alpha / statistics.alpha.sum()

    def error(method: Method, kept: int) -> float:
        basis = build_basis(method, head.weight, statistics, seed=0)
        zero = torch.zeros(HIDDEN, dtype=torch.float64)
        wrong = slow_logits(h, head, basis, zero, kept, False) - h.double() @ head.weight.double().T
        wrong = wrong - (wrong * alpha).sum(1, keepdim=True)
        return float((alpha * wrong.square()).sum(1).mean())

    for kept in (2, 8, 13):
        best = error(Method.PROBABILITY, kept)
        assert all(best <= error(method, kept) * (1 + 1e-6) for method in Method)


def test_random_columns_differ_by_seed_and_repeat_with_it(tmp_path: Path) -> None:
    hidden, _ = make_hidden(tmp_path)
    head = make_head()
    statistics = make_statistics(hidden, head)
    orders = [build_basis(Method.RANDOM, head.weight, statistics, seed).order for seed in (0, 0, 1)]
    assert orders[0] is not None
    assert orders[1] is not None
    assert orders[2] is not None
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_fisher_scores_agree_with_the_definition(tmp_path: Path) -> None:
    hidden, h = make_hidden(tmp_path)
    head = make_head()
    statistics = make_statistics(hidden, head)
    assert head.bias is not None
    p = (h.double() @ head.weight.double().T + head.bias.double()).softmax(1)
    mean = p @ head.weight.double()
    variance = p @ head.weight.double().square() - mean.square()
    expected = ((h.double() - h.double().mean(0)).square() * variance).mean(0)
    torch.testing.assert_close(statistics.fisher, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(statistics.alpha, p.mean(0), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(statistics.second_moment, h.double().T @ h.double() / hidden.positions)


def test_statistics_of_two_parts_add_up_to_those_of_the_whole(tmp_path: Path) -> None:
    head = make_head()
    (first, h1), (second, h2) = make_hidden(tmp_path, seed=0), make_hidden(tmp_path, seed=5)
    both = tmp_path / "both.bin"
    both.write_bytes(torch.cat([h1, h2]).view(torch.uint8).numpy().tobytes())
    whole = HiddenStates(both, torch.float32, HIDDEN, next_token_examples(torch.cat([first.windows, second.windows])))
    plain = [
        calibrate(part, head, with_fisher=False, device=CPU, progress=lambda fraction: None)
        for part in (first, second, whole)
    ]
    added = plain[0] + plain[1]
    torch.testing.assert_close(added.alpha, plain[2].alpha)
    torch.testing.assert_close(added.second_moment, plain[2].second_moment)
    assert int(added.positions) == int(plain[2].positions)


def test_alpha_never_becomes_the_log_of_zero() -> None:
    y, at_floor = neg_log_alpha(torch.tensor([0.5, 0.0, 1e-200, 0.5], dtype=torch.float64))
    assert at_floor == 1
    assert torch.isfinite(y).all()
    assert y[1] == y[2]


def test_baseline_perplexity_is_that_of_the_definition(tmp_path: Path) -> None:
    hidden, h = make_hidden(tmp_path)
    head = make_head()
    assert head.bias is not None
    statistics = make_statistics(hidden, head)
    basis = build_basis(Method.PROBABILITY, head.weight, statistics, seed=0)
    swept = sweep(hidden, prepare(head, basis, statistics.mean_hidden, repair=True, device=CPU), [4])
    loss = torch.nn.functional.cross_entropy(h @ head.weight.T + head.bias, hidden.targets)
    assert baseline_perplexity(swept) == pytest.approx(float(loss.exp()), rel=1e-5)


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(tmp_path: Path) -> None:
    hidden, _ = make_hidden(tmp_path)
    head = make_head()
    statistics = make_statistics(hidden, head)
    basis = build_basis(Method.PROBABILITY, head.weight, statistics, seed=0)
    results = [
        sweep(hidden, prepare(head, basis, statistics.mean_hidden, repair=True, device=torch.device(name)), [4, 9])
        for name in ("cpu", "cuda")
    ]
    torch.testing.assert_close(
        results[0].negative_log_likelihood, results[1].negative_log_likelihood, rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(results[0].divergence, results[1].divergence, rtol=1e-3, atol=1e-4)
