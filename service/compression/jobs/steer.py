"""The engine of a steer job: edit rows of the head, measure the effect on held-out text, write a plain checkpoint.

Phases as in compression: encoding (windows, statistics) -> analyzing (the slope) -> sweeping (the effect) ->
slicing and validating (write, load in plain transformers, compare). Publishes nothing.
"""

from typing import Any

import torch
from torch import Tensor

from headroom.contract.answers.job import Phase
from headroom.contract.compress import Method
from headroom.contract.report.curve import Baseline
from headroom.contract.report.report import SteerReport
from headroom.contract.report.steering import Obtained, SparseColumns, SteeredTokenFigures, Steering
from headroom.contract.report.stored import CheckpointBytes, LoadedAgain
from headroom.contract.steer import SteeredToken, SteerRecipe
from service.compression.checkpoint.checkpoint import plan_dense
from service.compression.checkpoint.checkpoint_writing import write_checkpoint
from service.compression.checkpoint.validation import (
    COMPARED_POSITIONS,
    PERPLEXITY_TOLERANCE,
    LoadedCheckpoint,
    check_reproduces,
)
from service.compression.encoding.row_edits import MULTIPLIERS, Edit, Effect, edit_direction, measure_effect
from service.compression.encoding.token_probability import Regression, encode, solve
from service.compression.jobs.phase_timer import PhaseTimer
from service.compression.jobs.report import report_of_encoding
from service.compression.numerics.row_moments import with_other_target
from service.compression.states.lm_head import CONTRACT_TOLERANCE
from service.compression.states.model_loading import load_model, load_tokenizer
from service.compression.states.offloading import room_of
from service.compression.states.source import Source, open_source
from service.compression.states.statistics import neg_log_alpha, probability_sum
from service.foundation.errors import InvalidToken, StoredMismatch, UnsupportedHead
from service.ports.engine import EngineOutcome, EngineTask, Progress, Verdict


def steer(task: EngineTask[SteerRecipe], progress: Progress) -> EngineOutcome:
    """Leaves a complete checkpoint in task.staging, or nothing when the budget refuses."""
    recipe, device, timer = task.recipe, torch.device(task.device), PhaseTimer(progress)
    with timer.phase(Phase.ENCODING) as report_progress:
        source = open_source(task, device, lambda done: report_progress(0.75 * done))
        _refuse_tied(recipe, source)
        ids = _token_ids(recipe.tokens, load_tokenizer(source.inspection.path), source.head.vocab_size)
        statistics = source.statistics(Method.PROBABILITY, device, lambda done: report_progress(0.75 + 0.25 * done))
    with timer.phase(Phase.ANALYZING):
        target, floor_rows = neg_log_alpha(statistics.alpha)
        encoding = encode(source.head.weight, target, statistics.mean_hidden, recipe.options.seed)
        fit = encoding.regression
        if recipe.few_examples is not None:
            few = _few_examples_target(source, recipe.few_examples, device)
            fit = solve(with_other_target(encoding.moments, source.head.weight.cpu(), few), encoding.spectrum)
        edit = _edit(recipe, ids, fit)
    with timer.phase(Phase.SWEEPING) as report_progress:
        effect = measure_effect(source.evaluation, source.head, edit, device, report_progress)
    report = SteerReport(
        **dict(report_of_encoding(task, source, encoding, floor_rows)),
        kind="steer",
        baseline=Baseline(perplexity=_perplexity(effect.loss_before), kind=source.reading.objective.perplexity),
        steering=_told(recipe, edit, effect, fit),
        bytes=CheckpointBytes(checkpoint_before=source.inspection.nbytes, checkpoint_after=None),
        stored=None,
    )
    if recipe.max_kl is not None and effect.kl_mean > recipe.max_kl:
        return EngineOutcome(Verdict.REJECT, timer.timed(report))
    weight = edit.apply(source.head.weight.cpu())
    with timer.phase(Phase.SLICING) as report_progress:
        bias = None if source.head.module_bias is None else source.head.module_bias.cpu()
        plan = plan_dense(source.inspection, source.head, source.stored, weight, bias, source.base_model_prefix)
        shard_bytes = recipe.options.max_shard_bytes
        hashes = write_checkpoint(plan, source.inspection, task.staging, shard_bytes, report_progress)
    with timer.phase(Phase.VALIDATING) as report_progress:
        elements = sum(torch.Size(item.shape).numel() for item in plan.tensors.values())
        model = load_model(
            task.staging, plan.config, source.reading.auto_class, elements, room_of(task, source.inspection, device)
        )
        loaded = LoadedCheckpoint(model, source.head)
        stored = loaded.measure(source.evaluation.examples, COMPARED_POSITIONS, report_progress)
        check_reproduces(stored, _perplexity(effect.loss_after), PERPLEXITY_TOLERANCE)
        difference = _check_logits(source, weight, stored.first_logits)
    found = {
        "bytes": CheckpointBytes(checkpoint_before=source.inspection.nbytes, checkpoint_after=plan.nbytes),
        "stored": LoadedAgain(
            perplexity=stored.perplexity,
            predicted_perplexity=_perplexity(effect.loss_after),
            max_logit_difference=difference,
        ),
    }
    return EngineOutcome(Verdict.PUBLISH, timer.timed(report.model_copy(update=found)), hashes)


def _refuse_tied(recipe: SteerRecipe, source: Source) -> None:
    if not source.head.is_tied:
        return
    if recipe.options.tied == "keep":
        raise UnsupportedHead(
            "the head shares its table with the input embedding, which an edit would change too: ask for options.tied "
            "untie, which gives the head a table of its own and makes the checkpoint larger"
        )
    if source.inspection.config.get("is_encoder_decoder"):
        raise UnsupportedHead(
            "the plain class of this encoder-decoder loads no head beside the input table that it shares, so an edited "
            "one cannot be stored"
        )


def _token_ids(tokens: list[SteeredToken], tokenizer: Any, vocab_size: int) -> Tensor:
    found = []
    for token in tokens:
        if token.id is not None:
            if token.id >= vocab_size:
                raise InvalidToken(f"there is no token {token.id}: the head has {vocab_size:,} rows, from 0 on")
            found.append(token.id)
            continue
        ids = tokenizer.encode(token.text, add_special_tokens=False)
        if len(ids) != 1:
            pieces = ", ".join(repr(tokenizer.decode([one])) for one in ids)
            raise InvalidToken(
                f"{token.text!r} is not one token of this model but {len(ids)} ({pieces}); steer one of these, and "
                "mind that most tokenizers begin a word with a space"
            )
        found.append(ids[0])
    if len(set(found)) < len(found):
        raise InvalidToken("two of the tokens are the same; each can be steered once")
    return torch.tensor(found)


def _few_examples_target(source: Source, count: int, device: torch.device) -> Tensor:
    rows = next(source.calibration.blocks(min(count, source.calibration.positions), device))
    target, _ = neg_log_alpha(probability_sum(rows, source.head, device) / rows.shape[0])
    return target


def _edit(recipe: SteerRecipe, ids: Tensor, fit: Regression) -> Edit:
    if not bool(fit.slope.any()):
        raise UnsupportedHead("the token probabilities of this text are the same for all rows: there is no direction")
    columns = None if recipe.edit == "minimum_norm" else recipe.edit.sparse
    multipliers = torch.tensor([token.multiplier for token in recipe.tokens], dtype=torch.float64)
    return Edit(ids, multipliers, edit_direction(fit.slope, columns))


def _told(recipe: SteerRecipe, edit: Edit, effect: Effect, fit: Regression) -> Steering:
    obtained = effect.after / effect.before
    errors = obtained.log() - edit.multipliers.log()
    alone = effect.alone / effect.before[:, None]
    tokens = [
        SteeredTokenFigures(
            id=int(edit.token_ids[i]),
            text=recipe.tokens[i].text,
            multiplier=float(edit.multipliers[i]),
            obtained=float(obtained[i]),
            log_error=float(errors[i]),
            probability_before=float(effect.before[i]),
            probability_after=float(effect.after[i]),
            alone=tuple(
                Obtained(multiplier=wanted, obtained=float(value))
                for wanted, value in zip(MULTIPLIERS, alone[i], strict=True)
            ),
        )
        for i in range(len(recipe.tokens))
    ]
    return Steering(
        edit=recipe.edit if isinstance(recipe.edit, str) else SparseColumns(sparse=recipe.edit.sparse),
        few_examples=recipe.few_examples,
        edited_columns=int(edit.direction.count_nonzero()),
        slope_norm=float(fit.slope.norm()),
        tokens=tuple(tokens),
        log_error_rms=float(errors.square().mean().sqrt()),
        others_before=effect.others_before,
        others_after=effect.others_after,
        kl_mean=effect.kl_mean,
        js_mean=effect.js_mean,
        perplexity_after=_perplexity(effect.loss_after),
        max_kl=recipe.max_kl,
    )


def _perplexity(loss: float) -> float:
    return float(torch.tensor(loss, dtype=torch.float64).exp())


@torch.inference_mode()
def _check_logits(source: Source, weight: Tensor, stored: Tensor) -> float:
    """Largest difference; StoredMismatch where the class that loaded the files still shares the input table."""
    hidden = next(source.evaluation.blocks(stored.shape[0])).float()
    bias = 0.0 if source.head.bias is None else source.head.bias.float().cpu()
    predicted = source.head.transform(hidden @ weight.float().T + bias)
    difference = float((predicted - stored).abs().max())
    allowed = CONTRACT_TOLERANCE.get(weight.dtype, 1e-4) * max(float(predicted.abs().max()), 1e-6)
    if not difference <= allowed:
        raise StoredMismatch(
            f"the stored checkpoint's logits differ by up to {difference:.3g} (allowed {allowed:.3g}): its class may "
            "insist on sharing the input table; nothing was published"
        )
    return difference
