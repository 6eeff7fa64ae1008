"""Readings of planes in blocks against a slow loop over full logits; the identities between readings; plain rivals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from headroom.loading.plane_codes import round_to_codes
from service.compression.drift import full_block
from service.compression.drift.plain_rivals import measure_rivals, rival_nbytes
from service.compression.drift.planes import rescored_drift
from service.compression.drift.planes.rescored_drift import (
    PlaneReading,
    reading_positions,
    readings_of,
    sweep_readings,
)
from service.compression.drift.planes.tempering import choose_tau, without
from service.compression.heads.plane_fit import FittedPlanes, fit_planes
from service.compression.heads.precision import round_groups, round_rows
from service.compression.numerics import tiles
from service.compression.numerics.tiles import Tiles
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead, Transform
from service.compression.states.statistics import Statistics, calibrate
from service.compression.text.examples import next_token_examples

VOCAB, HIDDEN, WINDOWS, WINDOW = 151, 43, 5, 12
BITS, RESCORED = (8, 4, 2), (0, 1, 7, 40, VOCAB, VOCAB + 9)
TRANSFORMS = [Transform(), Transform(scale=0.25), Transform(soft_cap=9.0)]


def make_hidden(folder: Path, seed: int = 0, windows: int = WINDOWS) -> HiddenStates:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(9)) * torch.logspace(0, -1.5, HIDDEN)
    h = torch.randn(windows * (WINDOW - 1), HIDDEN, generator=generator) @ mixing.T * 0.7 + 0.1
    path = folder / f"h-{seed}.bin"
    path.write_bytes(h.view(torch.uint8).numpy().tobytes())
    tokens = torch.randint(VOCAB, (windows, WINDOW), generator=generator)
    return HiddenStates(path, torch.float32, HIDDEN, next_token_examples(tokens))


def make_head(transform: Transform = TRANSFORMS[0], *, bias: bool = True, outside: bool = False) -> LmHead:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator)
    biases = torch.randn(2, VOCAB, generator=generator)
    return LmHead(
        weight,
        biases[0] if bias else None,
        transform,
        "lm_head",
        "embed",
        False,
        1.0,
        outside=biases[1] if outside else None,
    )


def make_statistics(hidden: HiddenStates, head: LmHead) -> Statistics:
    return calibrate(hidden, head, with_fisher=False, device=torch.device("cpu"), progress=lambda fraction: None)


def make_planes(hidden: HiddenStates, head: LmHead) -> FittedPlanes:
    return fit_planes(head, make_statistics(hidden, head), seed=0, whole_columns=32)


def slow_logits(h: Tensor, head: LmHead, planes: FittedPlanes, reading: PlaneReading) -> Tensor:
    """(rows, vocab) float64, from tensors sliced by hand, a position at a time."""
    step = 2 ** (8 - reading.bits)
    codes = planes.codes.double()
    read = torch.cat([codes[:, :32], (codes[:, 32:] / step).floor() * step + (step - 1) / 2], 1)
    scales = planes.scales.double().repeat_interleave(32, 1)[:, :HIDDEN]
    bias = 0 if planes.bias is None else planes.bias.double()
    rows = []
    for x in h.double() @ planes.basis.double().T:
        output = ((read - 127.5) * scales) @ x + bias
        exact = ((codes - 127.5) * scales) @ x + bias
        best = output.argsort(descending=True)[: reading.rescored]
        output[best] = exact[best]
        rows.append(output if head.outside is None else output + head.outside.double())
    return head.transform(torch.stack(rows))


def agreeing(full: Tensor, other: Tensor) -> Tensor:
    """(rows,) whether the most probable token is the same; logits that a soft cap makes equal count as equal."""
    return other.gather(1, full.argmax(1, keepdim=True))[:, 0] >= other.amax(1) - 1e-4


def slow_full(h: Tensor, head: LmHead) -> Tensor:
    logits = h.double() @ head.weight.double().T
    return head.transform(logits if head.bias is None else logits + head.bias.double()).log_softmax(1)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("widening", [0, 100])  # rescored rows widened for each position, or gathered from all 8 bits
@pytest.mark.parametrize("bits", [BITS, (4, 2)])
def test_every_reading_is_what_a_loop_over_all_logits_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transform: Transform,
    outside: bool,
    widening: int,
    bits: tuple[int, ...],
) -> None:
    monkeypatch.setitem(tiles.BLOCK_ELEMENTS, "cpu", VOCAB * 8)  # several blocks, the last one short
    monkeypatch.setattr(full_block, "tiles_for", lambda device: Tiles(8, 50))
    monkeypatch.setattr(rescored_drift, "RESCORED_ELEMENTS", 3 * 40 * HIDDEN)
    monkeypatch.setattr(rescored_drift, "WIDENING", widening)
    hidden, head = make_hidden(tmp_path), make_head(transform, outside=outside)
    planes = make_planes(make_hidden(tmp_path, seed=1), head)
    readings = readings_of(bits, RESCORED)
    blocks = list(reading_positions(hidden, head, planes, readings, top=5))
    likelihood, agreement, divergence, overlap = (
        torch.cat([getattr(block, name) for block in blocks])
        for name in ("likelihood", "agreement", "divergence", "overlap")
    )
    h = torch.cat(list(hidden.blocks(7)))
    full = slow_full(h, head)
    everyone = torch.arange(hidden.positions)
    assert likelihood.shape == (hidden.positions, len(readings) + 1)
    assert torch.allclose(likelihood[:, -1].double(), -full[everyone, hidden.targets], atol=1e-4)
    for place, reading in enumerate(readings):
        slow = slow_logits(h, head, planes, reading).log_softmax(1)
        kl = (full.exp() * (full - slow)).sum(1)
        assert torch.allclose(likelihood[:, place].double(), -slow[everyone, hidden.targets], atol=1e-4), reading
        assert torch.allclose(divergence[:, place].double(), kl, atol=2e-5), reading
        assert torch.equal(agreement[:, place], agreeing(full, slow)), reading
        wanted, found = full.topk(5).indices, slow.topk(5).indices
        shares = [len(set(a.tolist()) & set(b.tolist())) / 5 for a, b in zip(wanted, found, strict=True)]
        assert overlap[:, place].tolist() == pytest.approx(shares), reading


def test_rescoring_every_row_is_the_plain_8_bit_head_and_few_rows_come_in_between(tmp_path: Path) -> None:
    hidden, head = make_hidden(tmp_path), make_head()
    planes = make_planes(make_hidden(tmp_path, seed=1), head)
    points = sweep_readings(hidden, head, planes, BITS, (0, 20, VOCAB)).points(HIDDEN, seed=0)
    whole = points[PlaneReading(8, 0)]
    for bits in (4, 2):
        every = points[PlaneReading(bits, VOCAB)]
        assert every.kl_mean == pytest.approx(whole.kl_mean, abs=1e-6)
        assert every.perplexity == pytest.approx(whole.perplexity, rel=1e-6)
        assert every.top1_agreement == whole.top1_agreement
        assert whole.kl_mean < points[PlaneReading(bits, 20)].kl_mean < points[PlaneReading(bits, 0)].kl_mean
    assert points[PlaneReading(4, 0)].kl_mean < points[PlaneReading(2, 0)].kl_mean
    assert all(point.kept_columns == HIDDEN and point.ratio == 0.0 for point in points.values())
    assert all(p.perplexity_drift_low <= p.perplexity_drift <= p.perplexity_drift_high for p in points.values())


def test_a_small_divergence_over_a_large_vocabulary_is_that_of_float64(tmp_path: Path) -> None:
    """Errors of log p in float32 once took a third off it: their sum is multiplied by logits that are large."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50_000, HIDDEN, generator=generator)
    head = LmHead(weight, torch.full((50_000,), 20.0), Transform(scale=0.3), "lm_head", "embed", False, 1.0)
    hidden = make_hidden(tmp_path)
    planes = make_planes(hidden, head)
    found = sweep_readings(hidden, head, planes, (8,), (0,)).positions.divergence[:, 0]
    h = torch.cat(list(hidden.blocks(100)))
    x = h.double() @ planes.basis.double().T
    raw = x @ planes.whole_rows(slice(None)).double().T + 20.0
    full, slow = slow_full(h, head), head.transform(raw).log_softmax(1)
    kl = (full.exp() * (full - slow)).sum(1)
    assert float(found.double().mean()) == pytest.approx(float(kl.mean()), rel=1e-2)


def test_of_8_bits_there_is_one_reading() -> None:
    assert readings_of((8, 3), (0, 256)) == [PlaneReading(8, 0), PlaneReading(3, 0), PlaneReading(3, 256)]


def test_progress_ends_at_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiles.BLOCK_ELEMENTS, "cpu", VOCAB * 16)
    hidden, head, seen = make_hidden(tmp_path), make_head(bias=False), list[float]()
    sweep_readings(hidden, head, make_planes(hidden, head), (4,), (3,), progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) == 4
    assert seen[-1] == 1.0


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_plain_rivals_are_the_rounded_rows_of_the_head_itself(tmp_path: Path, transform: Transform) -> None:
    hidden, head = make_hidden(tmp_path), make_head(transform, outside=True)
    points = measure_rivals(hidden, head, seed=0)
    h = torch.cat(list(hidden.blocks(100)))
    full = slow_full(h, head)
    integers, scale = round_rows(head.weight.double())
    nibbles, steps = round_groups(head.weight.double())
    dense = {
        "int8": integers.double() * scale[:, None].double(),
        "int4": nibbles.double() * steps.double().repeat_interleave(32, 1)[:, :HIDDEN],
    }
    for name, point in points.items():
        slow = slow_full(h, replace(head, weight=dense[name]))
        assert point.kl_mean == pytest.approx(float((full.exp() * (full - slow)).sum(1).mean()), abs=1e-5)
        assert point.top1_agreement == pytest.approx(float(agreeing(full, slow).double().mean()))
        nll = float((-slow[torch.arange(hidden.positions), hidden.targets]).mean().exp())
        assert point.perplexity == pytest.approx(nll, rel=1e-4)
    assert points["int8"].kl_mean < points["int4"].kl_mean
    assert rival_nbytes("int8", head) == VOCAB * (HIDDEN + 2) + 4 * VOCAB
    assert rival_nbytes("int4", head) == VOCAB * (22 + 4) + 4 * VOCAB


def test_statistics_without_some_positions_are_those_of_the_others(tmp_path: Path) -> None:
    first, second, head = make_hidden(tmp_path, seed=3), make_hidden(tmp_path, seed=4), make_head(outside=True)
    others = make_statistics(first, head)
    left = without(others + make_statistics(second, head), torch.cat(list(second.blocks(100))), head)
    assert int(left.positions) == int(others.positions)
    for name in ("probability_sum", "hidden_sum", "second_moment_sum"):
        assert torch.allclose(getattr(left, name), getattr(others, name), atol=1e-5), name


@pytest.mark.parametrize("measured", [2 * (WINDOW - 1), WINDOW + 2])
def test_tau_is_the_one_of_least_divergence_at_windows_that_took_no_part_in_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: int
) -> None:
    """Windows are left out whole; no more of their positions are measured than were asked for."""
    monkeypatch.setattr("service.compression.drift.planes.tempering.HELD_OUT", measured)
    calibration, head = make_hidden(tmp_path, seed=5), make_head()
    statistics, reading = make_statistics(calibration, head), PlaneReading(2, 5)
    chosen = choose_tau(calibration, head, statistics, reading, seed=0, whole_columns=32, taus=(0.0, 1.0))
    assert chosen.held_out == measured
    windows = torch.cat(list(calibration.blocks(100)))[-2 * (WINDOW - 1) :]
    rest, held = without(statistics, windows, head), windows[:measured]
    for tau, kl in chosen.kl_of.items():
        planes = fit_planes(head, rest, seed=0, tau=tau, whole_columns=32)
        full = slow_full(held, head)
        slow = slow_logits(held, head, planes, reading).log_softmax(1)
        assert kl == pytest.approx(float((full.exp() * (full - slow)).sum(1).mean()), abs=1e-5)
    assert chosen.kl_of[chosen.tau] == min(chosen.kl_of.values())


def test_one_window_of_calibration_is_enough_to_choose_tau(tmp_path: Path) -> None:
    calibration, head = make_hidden(tmp_path, seed=6, windows=1), make_head(bias=False)
    statistics = make_statistics(calibration, head)
    chosen = choose_tau(calibration, head, statistics, PlaneReading(4, 5), seed=0, whole_columns=32)
    assert chosen.held_out == WINDOW - 1


def test_a_row_of_zeros_stays_one(tmp_path: Path) -> None:
    hidden, head = make_hidden(tmp_path), make_head(bias=False)
    head.weight[3] = 0
    planes = make_planes(hidden, head)
    assert not planes.whole_rows(slice(3, 4)).any()
    assert not planes.preview_rows(slice(3, 4), 2).any()
    codes, scales = round_to_codes(torch.zeros(1, HIDDEN))
    assert torch.equal(planes.scales[3:4], scales)
    assert torch.equal(planes.codes[3:4], codes)
