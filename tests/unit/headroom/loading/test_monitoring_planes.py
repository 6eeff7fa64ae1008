"""The drift monitor over heads in planes: measured against all 8 bits, raised in rows, then bits, then columns."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import headroom
from headroom.errors import InvalidArgument
from headroom.loading import plane_codes
from headroom.loading.planes_head import PlanesHead

HIDDEN, VOCAB, WHOLE = 75, 8200, 32


def make_model(*, bits: int = 4, rescored: int = 0, transform: dict[str, float | None] | None = None) -> Any:
    """As much of a model as a monitor asks for."""
    generator = torch.Generator().manual_seed(0)
    head = PlanesHead(HIDDEN, VOCAB, HIDDEN, WHOLE, bits=bits, rescored=rescored, bias=True)
    codes, scales = plane_codes.round_to_codes(torch.randn(VOCAB, HIDDEN, generator=generator))
    planes = plane_codes.split(codes, WHOLE)
    for name in ("whole", "high", "low"):
        getattr(head, name).copy_(getattr(planes, name))
    head.scales.copy_(scales.view(torch.int16))
    head.basis.data.copy_(torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=generator)).Q / 3)
    assert head.bias is not None
    head.bias.data.copy_(torch.randn(VOCAB, generator=generator))
    config = SimpleNamespace(quantization_config=SimpleNamespace(transform=transform))
    return SimpleNamespace(config=config, get_output_embeddings=lambda: head, head=head)


def hidden_states(positions: int = 20) -> torch.Tensor:
    return torch.randn(positions, HIDDEN, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("transform", [None, {"scale": 0.5, "soft_cap": 4.0}])
def test_the_divergence_is_from_all_eight_bits_as_the_model_transforms_them(
    transform: dict[str, float | None] | None,
) -> None:
    model, h = make_model(bits=2, transform=transform), hidden_states()
    with headroom.monitor(model, sample_rate=1.0) as watch:
        served = model.head(h)
    full = make_model(bits=8).head(h)
    if transform is not None:
        served, full = (4 * torch.tanh(logits * 0.5 / 4) for logits in (served, full))
    kl = F.kl_div(served.log_softmax(-1), full.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean()
    assert float(kl) > 1e-3
    assert watch.stats.positions == 20
    assert watch.stats.kl_mean == pytest.approx(float(kl), rel=1e-3)
    assert watch.stats.reads == f"all {VOCAB} logits are a preview of 2 bits"


def test_the_original_matrix_can_be_what_it_is_measured_against() -> None:
    model, h = make_model(bits=8), hidden_states()
    with headroom.monitor(model, sample_rate=1.0, full_weight=model.head.dense_weight()) as watch:
        model.head(h)
    assert watch.stats.kl_mean == pytest.approx(0, abs=1e-6)
    with pytest.raises(InvalidArgument, match="shape"):
        headroom.monitor(model, full_weight=torch.zeros(3, 3))


def test_alarms_raise_rows_then_bits_then_columns_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model, h = make_model(bits=2), hidden_states(8)
    headroom.set_head(model, columns=64)
    alarms: list[headroom.Stats] = []
    settings = []
    with (
        caplog.at_level(logging.WARNING),
        headroom.monitor(
            model, sample_rate=1.0, kl_budget=1e-9, window=8, on_alarm=alarms.append, adjust=True
        ) as watch,
    ):
        for _ in range(8):
            model.head(h)
            now = headroom.head_setting(model)
            settings.append((now.rescored, now.bits, now.columns))
    most = VOCAB // 16
    raised = [(256, 2, 64), (most, 2, 64), (most, 3, 64), (most, 4, 64), (most, 8, 64), (most, 8, HIDDEN)]
    assert settings[:6] == raised
    assert settings[6:] == [raised[-1]] * 2
    assert watch.stats.kl_recent == pytest.approx(0, abs=1e-6)
    assert len(caplog.messages) == 6
    assert "from now on the best 256 logits of each position are exact to 8 bits" in caplog.messages[0]
    assert alarms[0].reads == f"all {VOCAB} logits are a preview of 2 bits of 64 columns"


def test_a_head_inside_its_budget_is_left_as_it_is() -> None:
    model = make_model()
    with headroom.monitor(model, sample_rate=1.0, kl_budget=9.0, window=4, adjust=True):
        model.head(hidden_states())
    assert model.head.rescored == 0


def test_a_head_that_reads_everything_has_nothing_to_adjust() -> None:
    with pytest.raises(InvalidArgument, match="all 8200 logits are exact to 8 bits"):
        headroom.monitor(make_model(bits=8), adjust=True)
