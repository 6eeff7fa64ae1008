"""What a type of model is given and predicts: which positions, from what, seeded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from service.compression.text.corpus import Text, WindowSettings
from service.compression.text.denoising import infilled, with_sentinels
from service.compression.text.examples import IGNORED, masked_examples, taught_examples
from service.compression.text.reading import MASKED_SHARE, Objective, ReadCorpus, read_corpus, reading_of
from service.foundation.errors import CorpusNotText, CorpusTooShort, UnsupportedModel
from tests.tiny_models import BEGIN, FAMILIES, MASK, PAD, STOP, VOCABULARY, make_text, make_tokenizer

SETTINGS = WindowSettings(window=34, calibration_tokens=680, evaluation_tokens=680, seed=0)
BERT = {"architectures": ["BertForMaskedLM"], "model_type": "bert"}
T5 = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def read(folder: Path, family: str, field: str | None = None, settings: WindowSettings = SETTINGS) -> ReadCorpus:
    """The text of make_text, or pairs of two lines of it, as the family reads them."""
    path = folder / "corpus"
    lines = make_text().splitlines()
    pairs = [json.dumps({"long": a, "short": b[:9]}) for a, b in zip(lines[::2], lines[1::2], strict=False)]
    path.write_text("\n".join(pairs if field else lines))
    config = getattr(__import__("transformers"), FAMILIES[family].config)(**FAMILIES[family].fields)
    text = Text(path, "jsonl" if field else "text", field)
    named = {"architectures": [FAMILIES[family].model], "model_type": config.model_type}
    return read_corpus(reading_of(named, text), make_tokenizer(reads=FAMILIES[family].reads), config, text, settings)


@pytest.mark.parametrize(
    ("architecture", "model_type", "objective"),
    [
        ("BertForMaskedLM", "bert", Objective.MASKED),
        ("BertLMHeadModel", "bert", Objective.CAUSAL),
        ("BartForConditionalGeneration", "bart", Objective.DENOISING),  # transformers lists it as masked too
        ("BartForCausalLM", "bart", Objective.CAUSAL),
        ("LlamaForCausalLM", "llama", Objective.CAUSAL),
    ],
)
def test_an_architecture_is_read_by_its_type_of_task(architecture: str, model_type: str, objective: Objective) -> None:
    config = {"architectures": [architecture], "model_type": model_type}
    assert reading_of(config, Text(Path("unused"), "text", None)).objective is objective


def test_what_predicts_no_tokens_is_refused() -> None:
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    with pytest.raises(UnsupportedModel, match="BertForSequenceClassification"):
        reading_of(config, Text(Path("unused"), "text", None))


def test_pairs_are_for_encoder_decoders_only() -> None:
    pairs = Text(Path("unused"), "jsonl", "question,answer")
    assert reading_of(T5, pairs).objective is Objective.PAIRS
    with pytest.raises(CorpusNotText, match="name one field"):
        reading_of(BERT, pairs)


def test_fifteen_percent_of_ordinary_tokens_are_hidden_and_only_they_are_predicted() -> None:
    windows = torch.randint(10, 200, (200, 100), generator=seeded())
    windows[:, 0], windows[:, -1] = 1, 2
    special, ordinary = torch.tensor([1, 2, 3]), torch.arange(10, 200)
    examples = masked_examples(windows, 3, special, ordinary, MASKED_SHARE, seeded())
    predicted = examples.labels != IGNORED
    assert (predicted.sum(1) == 15).all()  # round(0.15 * 98)
    assert not predicted[:, [0, -1]].any()
    assert torch.equal(examples.targets, windows[predicted])
    shown = examples.inputs["input_ids"]
    assert torch.equal(shown[~predicted], windows[~predicted])
    hidden = float((shown[predicted] == 3).float().mean())
    kept = float((shown[predicted] == windows[predicted]).float().mean())
    assert hidden == pytest.approx(0.8, abs=0.03)
    assert kept == pytest.approx(0.1, abs=0.02)


def test_a_window_of_special_tokens_only_still_predicts() -> None:
    windows = torch.tensor([[1, 3, 3, 3, 3, 3, 3, 2], [1, 11, 12, 13, 14, 15, 16, 2]])
    special, ordinary = torch.tensor([1, 2, 3]), torch.arange(10, 200)
    assert masked_examples(windows, 4, special, ordinary, MASKED_SHARE, seeded()).lengths.tolist() == [1, 1]


def test_the_seed_decides_what_is_hidden(tmp_path: Path) -> None:
    first, again = read(tmp_path, "bert"), read(tmp_path, "bert")
    other = read(tmp_path, "bert", settings=WindowSettings(34, 680, 680, seed=1))
    assert torch.equal(first.evaluation.labels, again.evaluation.labels)
    assert not torch.equal(first.evaluation.labels, other.evaluation.labels)


def test_a_masked_window_has_the_tokenizers_frame(tmp_path: Path) -> None:
    ids = read(tmp_path, "bert").evaluation.inputs["input_ids"]
    assert ids.shape == (20, 34)
    assert (ids[:, 0] == BEGIN).all()
    assert (ids[:, -1] == STOP).all()


def test_infilling_puts_one_mask_for_a_span_and_keeps_the_rest_in_order() -> None:
    body = torch.arange(20_000) + 10
    damaged = infilled(body, 3, seeded())
    kept = damaged[damaged != 3]
    assert (kept.diff() > 0).all()
    # A span starts at a tenth of the positions not yet hidden, and hides three tokens on average.
    assert 1 - kept.numel() / body.numel() == pytest.approx(0.3 / 1.2, abs=0.03)


def test_sentinels_hide_spans_that_the_target_tells() -> None:
    body = torch.arange(100) + 10
    source, target = with_sentinels(body, [1, 2, 3, 4, 5, 6, 7, 8], seeded())
    assert source[source < 10].tolist() == [1, 2, 3, 4, 5]
    assert target[target < 10].tolist() == [1, 2, 3, 4, 5, 6]
    assert sorted(torch.cat([source[source >= 10], target[target >= 10]]).tolist()) == body.tolist()
    assert (target >= 10).sum() == 15
    rebuilt: list[int] = []
    for token in source.tolist():
        start = target.tolist().index(token) + 1 if token < 10 else 0
        rebuilt += target.tolist()[start : start + 3] if token < 10 else [token]
    assert rebuilt == body.tolist()


def test_the_decoder_sees_the_target_up_to_the_token_it_predicts() -> None:
    examples = taught_examples(
        [torch.tensor([5, 6]), torch.tensor([7])], [torch.tensor([8]), torch.tensor([9, 4])], 2, 0
    )
    assert examples.inputs["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert examples.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert examples.inputs["decoder_input_ids"].tolist() == [[2, 0], [2, 9]]
    assert examples.labels.tolist() == [[8, IGNORED], [9, 4]]
    assert examples.lengths.tolist() == [1, 2]


def test_a_denoised_text_is_the_target_with_its_frame(tmp_path: Path) -> None:
    examples = read(tmp_path, "bart").evaluation
    assert examples.labels.shape == (20, 34)
    assert (examples.labels[:, 0] == BEGIN).all()
    assert (examples.labels[:, -1] == STOP).all()
    assert (examples.inputs["input_ids"] == MASK).any()
    assert torch.equal(examples.inputs["decoder_input_ids"][:, 1:], examples.labels[:, :-1])
    assert (examples.inputs["decoder_input_ids"][:, 0] == STOP).all()  # its decoder_start_token_id


def test_pairs_are_split_whole_and_framed(tmp_path: Path) -> None:
    corpus = read(tmp_path, "t5", "long,short")
    assert corpus.split == "pair"
    for part in (corpus.calibration, corpus.evaluation):
        ends = part.labels.gather(1, part.lengths[:, None] - 1)
        assert (ends == STOP).all()
        assert (part.lengths == 10).all()  # nine letters and the end
        assert part.inputs["input_ids"].shape[1] == 34
    both = [tuple(row) for part in (corpus.calibration, corpus.evaluation) for row in part.inputs["input_ids"].tolist()]
    assert len(set(both)) > 0.9 * len(both)


def test_one_pair_is_too_few(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_text('{"a": "x", "b": "y"}\n{"a": "", "b": "z"}\n')
    text = Text(path, "jsonl", "a,b")
    with pytest.raises(CorpusTooShort, match="two pairs"):
        read_corpus(reading_of(T5, text), make_tokenizer(reads="sentinels"), AutoConfig.for_model("t5"), text, SETTINGS)


@pytest.mark.parametrize(("config", "message"), [(BERT, "mask token"), (T5, "pairs")])
def test_a_tokenizer_without_the_tokens_for_it_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    path = tmp_path / "corpus"
    path.write_text(make_text())
    text = Text(path, "text", None)
    with pytest.raises(UnsupportedModel, match=message):
        read_corpus(reading_of(config, text), make_tokenizer(), AutoConfig.for_model("t5"), text, SETTINGS)


def test_no_input_is_outside_of_the_vocabulary(tmp_path: Path) -> None:
    for family in ("bert", "bart", "t5"):
        for ids in read(tmp_path, family).evaluation.inputs.values():
            assert 0 <= int(ids.min()) <= int(ids.max()) < VOCABULARY
    assert PAD < VOCABULARY
