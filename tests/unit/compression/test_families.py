"""Every family through the whole job: a tiny random model of the real class, tied or untied as it comes."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import headroom
from headroom.contract.compress import Method
from headroom.errors import InvalidArgument
from service.compression.checkpoint.checkpoint import plan_checkpoint
from service.compression.checkpoint.checkpoint_writing import write_checkpoint
from service.compression.heads.basis import build_basis
from service.compression.heads.slicing import slice_head
from service.compression.jobs.compress import compress
from service.compression.states.hidden_states import forward
from service.compression.states.lm_head import find_lm_head
from service.compression.states.source import Source, open_source
from service.compression.text.examples import IGNORED, Examples
from service.foundation.errors import UnsupportedHead
from service.jobs.estimates import head_facts
from service.ports.engine import CorpusFile, EngineTask, Verdict
from service.ports.models import LocalModel
from tests.factories import ENGINE_DEVICE, make_recipe
from tests.reports import as_stored
from tests.tiny_models import FAMILIES, make_model, make_text, make_tiny_checkpoint

OPTIONS = {"window": 32, "calibration_tokens": 1024, "evaluation_tokens": 256}
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Done:
    """A family after its job."""

    name: str
    task: EngineTask[Any]
    report: dict[str, Any]
    source: Source

    def load(self, folder: Path) -> Any:
        return getattr(transformers, self.source.reading.auto_class).from_pretrained(folder).eval()


def make_task(folder: Path, family: str, **options: Any) -> EngineTask[Any]:
    make_tiny_checkpoint(folder / "model", family)
    (folder / "staging").mkdir()
    corpus = folder / "corpus.txt"
    corpus.write_text(make_text(2500))
    recipe = make_recipe(ratio=0.5, drift={"perplexity": 9.0, "kl": None}, options=OPTIONS | options)
    local = LocalModel("acme/tiny", None, folder / "model")
    return EngineTask(
        "job_f",
        recipe,
        (local,),
        (CorpusFile(corpus, "text", None),),
        folder / "cache",
        folder / "staging",
        ENGINE_DEVICE,
    )


@pytest.fixture(scope="module", params=FAMILIES)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    task = make_task(tmp_path_factory.mktemp(request.param), request.param)
    outcome = as_stored(compress(task, lambda phase, fraction: None))
    assert outcome.verdict is Verdict.PUBLISH
    return Done(request.param, task, outcome.report, open_source(task, CPU, lambda fraction: None))


def perplexity(model: Any, examples: Examples) -> float:
    """The definition, by the model's own forward pass."""
    with torch.no_grad():
        log_p = forward(model, examples.inputs).logits.double().log_softmax(-1)
    loss = torch.nn.functional.nll_loss(log_p.flatten(0, 1), examples.labels.flatten(), ignore_index=IGNORED)
    return math.exp(float(loss))


def logits_of(model: Any, source: Source) -> Tensor:
    with torch.no_grad():
        logits: Tensor = forward(model, source.evaluation.examples.first(2, 32)).logits
    return logits


def test_what_is_stored_has_the_reported_perplexity_by_the_models_own_forward_pass(done: Done) -> None:
    examples = done.source.evaluation.examples
    before, after = done.load(done.task.model.path), done.load(done.task.staging)
    assert done.report["baseline"]["perplexity"] == pytest.approx(perplexity(before, examples), rel=1e-3)
    assert done.report["stored"]["perplexity"] == pytest.approx(perplexity(after, examples), rel=1e-3)
    assert after.get_output_embeddings().weight.shape == (264, 16)


def test_the_head_is_tied_as_the_family_comes_and_the_headers_tell_it(done: Done) -> None:
    assert done.report["head"]["tied"] is FAMILIES[done.name].tied
    facts = head_facts(done.source.inspection)
    assert (facts.vocab_size, facts.hidden_size, facts.is_tied) == (264, 32, FAMILIES[done.name].tied)


def test_saving_and_loading_again_changes_no_logit(done: Done, tmp_path: Path) -> None:
    model = done.load(done.task.staging)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(done.load(tmp_path), done.source), logits_of(model, done.source))


def test_it_generates_or_fills_a_mask(done: Done) -> None:
    model = done.load(done.task.staging)
    if model.can_generate():
        tokens = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert tokens.shape[1] > 1
    else:
        assert logits_of(model, done.source).argmax(-1).shape == (2, 32)


def test_the_dense_model_is_the_same_function_and_a_plain_one_where_its_head_has_a_bias(
    done: Done, tmp_path: Path
) -> None:
    model = done.load(done.task.staging)
    before = logits_of(model, done.source)
    if done.source.head.module_bias is None:
        with pytest.warns(UserWarning, match="bias"):
            model.dequantize()
    else:
        model.dequantize()
    torch.testing.assert_close(logits_of(model, done.source), before, rtol=1e-4, atol=1e-4)
    if done.source.head.module_bias is not None:  # else the plain class has no place for the repaired bias
        model.save_pretrained(tmp_path)
        torch.testing.assert_close(logits_of(done.load(tmp_path), done.source), before, rtol=1e-4, atol=1e-4)


def test_a_tied_head_reads_all_its_columns_again(done: Done) -> None:
    model = done.load(done.task.staging)
    if not FAMILIES[done.name].tied:
        with pytest.raises(InvalidArgument, match="not stored"):
            headroom.set_kept_columns(model, 32)
        return
    headroom.set_kept_columns(model, 32)
    whole = logits_of(done.load(done.task.model.path), done.source)
    torch.testing.assert_close(logits_of(model, done.source), whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


@pytest.mark.parametrize("method", [Method.SLOPE, Method.PROBABILITY])
def test_with_every_column_kept_nothing_changes(done: Done, tmp_path: Path, method: Method) -> None:
    source = done.source
    statistics = source.statistics(method, CPU, lambda fraction: None)
    basis = build_basis(method, source.head.weight, statistics, seed=0)
    factors = slice_head(source.head, basis, 32, statistics.mean_hidden, repair=False)
    plan = plan_checkpoint(
        source.inspection,
        source.head,
        source.stored,
        factors,
        method=method.value,
        keep_tied=True,
        keep_removed=False,
        base_model_prefix=source.base_model_prefix,
        fingerprint=None,
    )
    write_checkpoint(plan, source.inspection, tmp_path, 10**9, lambda fraction: None)
    whole, stored = logits_of(done.load(done.task.model.path), source), logits_of(done.load(tmp_path), source)
    torch.testing.assert_close(stored, whole, rtol=1e-4, atol=2e-5 * float(whole.abs().max()) + 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_does_something_else_is_refused(family: str) -> None:
    model = make_model(family)
    ids = torch.arange(5, 37).view(2, 16)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    assert find_lm_head(model, inputs).weight.shape == (264, 32)
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: output + output.roll(1, -1))
    with pytest.raises(UnsupportedHead, match="differ"):
        find_lm_head(model, inputs)


def test_a_constant_that_the_model_adds_after_its_head_is_found_among_its_tensors() -> None:
    model = make_model("bart")
    ids = torch.arange(5, 37).view(2, 16)
    inputs = {"input_ids": ids, "decoder_input_ids": ids}
    head = find_lm_head(model, inputs)
    assert head.outside_name == "final_logits_bias"
    assert head.module_bias is None
    assert head.bias is not None
    assert torch.equal(head.bias, model.final_logits_bias[0])
    model.final_logits_bias.zero_()
    assert find_lm_head(model, inputs).bias is None


def test_untying_an_encoder_decoder_leaves_its_two_input_tables_one(tmp_path: Path) -> None:
    for family in ("bart", "t5"):
        task = make_task(tmp_path / family, family, tied="untie")
        assert compress(task, lambda phase, fraction: None).verdict is Verdict.PUBLISH
        stored = transformers.AutoModelForSeq2SeqLM.from_pretrained(task.staging)
        table = transformers.AutoModelForSeq2SeqLM.from_pretrained(task.model.path).get_input_embeddings().weight
        for half in (stored.get_encoder(), stored.get_decoder()):
            assert torch.equal(half.embed_tokens.weight, table)
