"""The whole drift curve at 20 ratios against one plain evaluation of the same tokens, on a GPT-2-size model.

vs_plain_evaluation: backbone pass + 20 kept sizes (perplexity, KL, top-1), over plain model(ids) + cross-entropy.
warm_vs_plain_evaluation: the same from cached hidden states. rss_20k_over_2k: peak memory of the sweep, 20k positions
over 2k, each in a process of its own. selected_vs_curve: the figures of one size position by position, over the
warm curve. Weights are random: only shapes matter for time.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from bench.timing import ratio
from headroom.contract.compress import Method
from service.compression.drift.sweep import SweepHead, prepare, sweep
from service.compression.drift.token_drift import token_drift
from service.compression.heads.basis import build_basis
from service.compression.states.hidden_cache import HiddenCache, HiddenStates
from service.compression.states.lm_head import LmHead, Transform
from service.compression.states.statistics import Statistics
from service.compression.text.examples import next_token_examples

VOCAB, HIDDEN, WINDOW, WINDOWS = 50257, 768, 512, 4
RATIOS = [round(0.05 * step, 2) for step in range(20)]  # 0, 0.05, .. 0.95: twenty sizes, the full one among them
KEPT = [HIDDEN - int(HIDDEN * r) for r in RATIOS]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_head(weight: torch.Tensor) -> SweepHead:
    """A basis from made-up statistics: what it is worth does not matter here, its general form does."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2048, HIDDEN, dtype=torch.float64, generator=generator)
    counts = torch.tensor(2048)
    uniform = torch.full((VOCAB,), 2048 / VOCAB, dtype=torch.float64)
    statistics = Statistics(counts, uniform, h.sum(0), h.T @ h, torch.zeros(0))
    head = LmHead(weight, None, Transform(), "lm_head", "transformer.wte", True, 1.0)
    basis = build_basis(Method.PROBABILITY, weight, statistics, seed=0)
    return prepare(head, basis, statistics.mean_hidden, repair=True, device=DEVICE)


def plain_evaluation(model: Any, windows: torch.Tensor) -> float:
    total = 0.0
    with torch.inference_mode():
        for window in windows:
            ids = window[None].to(DEVICE)
            logits = model(ids).logits
            total += float(torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum"))
    return total


def run() -> dict[str, Any]:
    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB)).eval().to(DEVICE)
    windows = torch.randint(VOCAB, (WINDOWS, WINDOW))
    head = make_head(model.lm_head.weight.detach())
    with tempfile.TemporaryDirectory() as folder:
        cache, key = HiddenCache(Path(folder)), 0
        meta = {"dtype": "torch.float32", "hidden_size": HIDDEN}

        def warm() -> None:
            sweep(cache.open(str(key), "evaluation"), head, KEPT)

        def cold() -> None:
            nonlocal key
            key += 1
            cache.fill(str(key), model, {"evaluation": next_token_examples(windows)}, meta, lambda done: None)
            warm()

        all_of_it, curve, plain = ratio(cold, lambda: plain_evaluation(model, windows), rounds=3)
        from_cache, warm_seconds, _ = ratio(warm, lambda: plain_evaluation(model, windows), rounds=3)
        selected, _, _ = ratio(
            lambda: token_drift(cache.open(str(key), "evaluation"), head, HIDDEN // 2), warm, rounds=3
        )
    small, large = _peak(2048), _peak(20480)
    return {
        "device": str(DEVICE),
        "threads": torch.get_num_threads(),
        "positions": WINDOWS * (WINDOW - 1),
        "ratios": len(KEPT),
        "vs_plain_evaluation": round(all_of_it, 3),
        "warm_vs_plain_evaluation": round(from_cache, 3),
        "selected_vs_curve": round(selected, 3),
        "curve_seconds": round(curve, 2),
        "warm_curve_seconds": round(warm_seconds, 2),
        "plain_seconds": round(plain, 2),
        "rss_20k_over_2k": round(large / small, 3),
        "rss_2k_mb": round(small / 1e6),
        "rss_20k_mb": round(large / 1e6),
    }


def _peak(positions: int) -> int:
    """Peak resident bytes of a process that sweeps this many positions."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.engine.sweep", str(positions)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def _sweep_once(positions: int) -> None:
    torch.manual_seed(0)
    head = make_head(torch.randn(VOCAB, HIDDEN) * 0.02)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "h.bin"
        windows = torch.randint(VOCAB, (positions // (WINDOW - 1), WINDOW))
        with path.open("wb") as file:
            for _ in range(windows.shape[0]):
                file.write(torch.randn(WINDOW - 1, HIDDEN).numpy().tobytes())
        sweep(HiddenStates(path, torch.float32, HIDDEN, next_token_examples(windows)), head, KEPT)
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}\n")


if __name__ == "__main__":
    _sweep_once(int(sys.argv[1]))
