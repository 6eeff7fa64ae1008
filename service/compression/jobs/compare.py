"""The engine of a compare job: two checkpoints, plain or sliced, on the same windows, position by position.

Both are loaded as users load them; each model's own code makes its logits, in float32 from the head on. Memory: both
models, and their logits for a block of positions.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headroom.contract.answers.job import Phase
from headroom.contract.compare import CompareRecipe
from headroom.contract.report.curve import AllowedDrift, Baseline
from headroom.contract.report.drift_parts import BandDrift
from headroom.contract.report.report import VERSION, CompareReport
from headroom.contract.report.source import ComparedModel, EvaluatedText
from service.compression.drift.bands import drift_by_band
from service.compression.drift.drift_points import WINDOWS_FOR_INTERVAL, is_inside
from service.compression.drift.groups import drift_by_group, small_groups
from service.compression.drift.token_drift import TOP, TokenDrift
from service.compression.jobs.phase_timer import PhaseTimer
from service.compression.jobs.report import versions
from service.compression.states.decoding_cost import head_bytes, seconds_per_token
from service.compression.states.hidden_states import forward, stopped_at_lm_head
from service.compression.states.model_loading import check_token_ids, load_any_model, load_tokenizer, longest_window
from service.compression.states.offloading import room_of
from service.compression.text.corpus import Text, WindowSettings
from service.compression.text.examples import Examples
from service.compression.text.reading import CorpusReading, ReadCorpus, read_corpus, reading_of
from service.foundation.errors import ModelDrift, ModelsNotComparable
from service.models.model_files import ModelInspection, digest_model, inspect_model
from service.ports.engine import EngineOutcome, EngineTask, Progress, Verdict
from service.ports.models import LocalModel

ROWS_AT_ONCE = 128  # positions whose logits of both models are held


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two models that are compared."""

    local: LocalModel
    inspection: ModelInspection
    reading: CorpusReading
    tokenizer: Any
    model: Any

    def told(self, seconds_per_token: float | None) -> ComparedModel:
        """The model as the report has it."""
        sliced = self.inspection.config.get("quantization_config")
        return ComparedModel(
            id=self.local.id,
            revision=self.local.revision,
            digest=digest_model(self.inspection),
            auto_class=self.reading.auto_class,
            kept_columns=sliced["kept_columns"] if sliced else None,
            head_bytes=head_bytes(self.model.get_output_embeddings()),
            checkpoint_bytes=self.inspection.nbytes,
            seconds_per_token=seconds_per_token,
        )


def compare(task: EngineTask[CompareRecipe], progress: Progress) -> EngineOutcome:
    """ModelsNotComparable unless both read and predict the same tokens."""
    device, timer, recipe = torch.device(task.device), PhaseTimer(progress), task.recipe
    text = Text(task.corpus.path, task.corpus.format, task.corpus.field, recipe.group_field)
    with timer.phase(Phase.ENCODING) as report_progress:
        sides = []
        for local in task.models:
            sides.append(_open(task, local, text, device))
            report_progress(len(sides) / 2)
        one, other = sides
        corpus, window = _read(one, other, text, recipe)
    with timer.phase(Phase.SWEEPING) as report_progress:
        drift, alpha = measure(one.model, other.model, corpus.evaluation, lambda done: report_progress(0.9 * done))
        seconds = seconds_per_token(one.model, other.model, corpus.evaluation.inputs["input_ids"], one.reading)
    seed = recipe.options.seed
    bands = drift_by_band(drift, alpha, seed)
    report = CompareReport(
        version=VERSION,
        kind="compare",
        job_id=task.job_id,
        model=one.told(seconds[0]),
        other=other.told(seconds[1]),
        versions=versions(),
        seed=seed,
        device=task.device,
        corpus=EvaluatedText(
            objective=one.reading.objective.value,
            evaluation_tokens=drift.target.numel(),
            evaluation_windows=len(corpus.evaluation),
            window=window,
            split=corpus.split,
        ),
        baseline=Baseline(perplexity=bands[0].perplexity_before, kind=one.reading.objective.perplexity),
        perplexity_after=float(drift.after.mean().exp()),
        budget=AllowedDrift(**recipe.drift.model_dump()) if recipe.drift else None,
        passes=_passes(bands, recipe),
        bands=bands,
        groups=drift_by_group(drift, corpus.groups, seed) if corpus.groups else (),
        warnings=(*_few(len(corpus.evaluation)), *small_groups(corpus.groups)),
    )
    return EngineOutcome(Verdict.REJECT if report.passes is False else Verdict.REPORT, timer.timed(report))


def _open(task: EngineTask[CompareRecipe], local: LocalModel, text: Text, device: torch.device) -> Side:
    inspection = inspect_model(local.path)
    reading = reading_of(inspection.config, text)
    model = load_any_model(inspection, reading.auto_class, room_of(task, inspection, device, models=2))
    return Side(local, inspection, reading, load_tokenizer(local.path), model)


def _read(one: Side, other: Side, text: Text, recipe: CompareRecipe) -> tuple[ReadCorpus, int]:
    """The first model's windows, which the second must be able to read, and their length."""
    widths = [side.model.get_output_embeddings().out_features for side in (one, other)]
    if one.tokenizer.get_vocab() != other.tokenizer.get_vocab() or widths[0] != widths[1]:
        raise ModelsNotComparable(
            f"{one.local.id} and {other.local.id} have different vocabularies: compare checkpoints of one tokenizer"
        )
    if one.reading.auto_class != other.reading.auto_class:
        raise ModelsNotComparable(
            f"{one.local.id} is loaded by {one.reading.auto_class}, {other.local.id} by {other.reading.auto_class}: "
            "compare models of one task"
        )
    options = recipe.options
    window = min(options.window, *(longest_window(side.model.config, side.tokenizer) for side in (one, other)))
    settings = WindowSettings(window, options.calibration_tokens, options.evaluation_tokens, options.seed)
    corpus = read_corpus(one.reading, one.tokenizer, one.model.config, text, settings)
    for side in (one, other):
        check_token_ids(corpus.evaluation, side.model.get_input_embeddings().num_embeddings)
    return corpus, window


@torch.inference_mode()
def measure(one: Any, other: Any, examples: Examples, progress: Callable[[float], None]) -> tuple[TokenDrift, Tensor]:
    """`other` against `one`, and (vocab,) float64 averaged token probability of `one` on these windows."""
    found: list[tuple[Tensor, ...]] = []
    alpha = torch.zeros(one.get_output_embeddings().out_features, dtype=torch.float64)
    # In float32, as compress measures: rounding of logits is the runtime's.
    heads = [copy.deepcopy(model.get_output_embeddings()).float() for model in (one, other)]
    for number, window in enumerate(examples.split(1)):
        blocks = [_logits(model, head, window) for model, head in zip((one, other), heads, strict=True)]
        for before, after, wanted in zip(*blocks, window.targets.split(ROWS_AT_ONCE), strict=True):
            figures, probability = _positions(before, after, wanted.to(before.device))
            found.append(figures)
            alpha += probability
        progress((number + 1) / len(examples))
    before, after, divergence, agreement, overlap = (torch.cat(parts) for parts in zip(*found, strict=True))
    if not torch.isfinite(before).all():
        raise ModelDrift("the first model's loss on this corpus is not a number: its weights are damaged")
    window_of = torch.arange(len(examples)).repeat_interleave(examples.lengths)
    drift = TokenDrift(window_of, examples.targets, before, after, divergence, agreement, overlap)
    return drift, alpha / examples.targets.numel()


def _logits(model: Any, head: Any, window: Examples) -> Iterator[Tensor]:
    """Blocks of (predicted positions, vocab) float32. head: the model's own, in float32.

    What a model does after its head works on each logit alone: it takes any rows of them in place of its own.
    """
    with stopped_at_lm_head(model) as hidden_states:
        hidden = window.predicting(hidden_states(window.inputs)).float()
    for rows in hidden.split(ROWS_AT_ONCE):
        output = head(rows)[None]
        hook = model.get_output_embeddings().register_forward_hook(lambda *call, output=output: output)
        try:
            yield forward(model, window.first(1, 1)).logits[0].float()
        finally:
            hook.remove()


def _positions(before: Tensor, after: Tensor, wanted: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Logits (rows, vocab) of both, targets (rows,) -> the figures of TokenDrift, and summed probabilities (vocab,)."""
    log_p, log_q = before.log_softmax(1), after.log_softmax(1)
    p = log_p.exp()
    top = min(TOP, before.shape[1])
    best, others = before.topk(top).indices, after.topk(top).indices
    figures = (
        -log_p.gather(1, wanted[:, None])[:, 0].double(),
        -log_q.gather(1, wanted[:, None])[:, 0].double(),
        (p * (log_p - log_q)).sum(1).clamp_min(0),
        best[:, 0] == others[:, 0],
        (best[:, :, None] == others[:, None, :]).any(2).float().mean(1),
    )
    return tuple(figure.cpu() for figure in figures), p.sum(0, dtype=torch.float64).cpu()


def _passes(bands: tuple[BandDrift, ...], recipe: CompareRecipe) -> bool | None:
    """None without a budget. bands: all positions first, the rarest tokens' last."""
    if recipe.drift is None:
        return None
    whole, rare = bands[0], bands[-1].perplexity_drift_high
    return is_inside(recipe.drift, whole.perplexity_drift_high, whole.kl_mean, whole.top1_agreement, rare)


def _few(windows: int) -> list[str]:
    if windows >= WINDOWS_FOR_INTERVAL:
        return []
    return [f"only {windows} evaluation windows: the interval says little below {WINDOWS_FOR_INTERVAL}; send more text"]
