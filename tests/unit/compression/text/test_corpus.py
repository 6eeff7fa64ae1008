"""Windows are seeded, disjoint and of whole length."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from service.compression.text.corpus import Frame, Windows, WindowSettings, frame_of, make_windows, read_documents
from service.foundation.errors import CorpusEmpty, CorpusNotText, CorpusTooShort
from tests.tiny_models import make_tokenizer

SETTINGS = WindowSettings(window=16, calibration_tokens=64, evaluation_tokens=96, seed=0)


def windows_of(documents: list[str], settings: WindowSettings = SETTINGS) -> Windows:
    return make_windows(make_tokenizer(), iter(documents), settings, Frame())


def test_calibration_and_evaluation_share_no_window() -> None:
    text = "".join(chr(97 + i % 26) + chr(97 + i // 26 % 26) for i in range(2000))
    windows = windows_of([text])
    assert windows.calibration.shape == (4, 16)
    assert windows.evaluation.shape == (6, 16)
    both = Counter(tuple(row.tolist()) for row in torch.cat([windows.calibration, windows.evaluation]))
    assert max(both.values()) == 1
    assert windows.split == "window"


def test_many_documents_are_split_whole() -> None:
    documents = [chr(97 + i) * 40 for i in range(26)]
    windows = windows_of(documents)
    assert windows.split == "document"
    letters = [set(part.flatten().tolist()) - {0} for part in (windows.calibration, windows.evaluation)]
    assert letters[0]
    assert letters[1]
    assert not letters[0] & letters[1]


def test_the_seed_decides_and_repeats() -> None:
    text = "".join(chr(97 + i % 26) + chr(97 + i // 26 % 26) for i in range(2000))
    again = windows_of([text])
    assert torch.equal(windows_of([text]).evaluation, again.evaluation)
    other = windows_of([text], WindowSettings(16, 64, 96, seed=1))
    assert not torch.equal(other.evaluation, again.evaluation)


def test_a_small_corpus_is_shared_out_one_to_two() -> None:
    windows = windows_of(["x" * (16 * 9)])
    assert (windows.calibration.shape[0], windows.evaluation.shape[0]) == (3, 6)


def test_two_windows_are_enough_and_one_is_not() -> None:
    assert windows_of(["x" * 31]).calibration.shape[0] == 1  # 31 bytes and an end token
    with pytest.raises(CorpusTooShort, match="30 tokens"):
        windows_of(["x" * 29])


@pytest.mark.parametrize("documents", [[], ["", " \n"]])
def test_no_text_is_empty(documents: list[str]) -> None:
    with pytest.raises(CorpusEmpty):
        windows_of(documents)


def test_a_tokenizer_that_begins_texts_begins_every_window() -> None:
    tokenizer = make_tokenizer()
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    windows = make_windows(tokenizer, iter(["x" * 400]), SETTINGS, frame_of(tokenizer))
    assert (windows.evaluation[:, 0] == 0).all()
    assert (windows.evaluation[:, 1:] != 0).sum() > 0


def test_json_lines_give_the_text_of_their_field(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(json.dumps({"body": text}) for text in ("one", "two")) + "\n\n")
    assert list(read_documents(path, "jsonl", "body")) == ["one", "two"]


def test_json_lines_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "one"}\n{"text": "\ufefftwo"}\n', encoding="utf-8-sig")
    assert list(read_documents(path, "jsonl", None)) == ["one", "\ufefftwo"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1 .* not JSON"),
        (b'{"text": 1}', "no text in field"),
        (b"[]", "no text in field"),
        (b"\xff", "UTF-8"),
    ],
)
def test_damaged_json_lines_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorpusNotText, match=message):
        list(read_documents(path, "jsonl", None))
