"""Model folders as users have them: other tokenizers and dtypes, contradictions. The result is what the files say."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MobileBertConfig, MobileBertForMaskedLM

import headroom
from service.compression.states import library_errors
from service.compression.states.model_loading import load_tokenizer
from service.foundation.errors import CorruptCheckpoint, UnsafeModel, UnsupportedHead, UnsupportedModel
from service.models.model_files import inspect_model
from service.ports.engine import EngineOutcome, EngineTask
from tests.tiny_models import make_tiny_checkpoint, make_tokenizer

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]

MAGNITUDE = {"method": "magnitude", "ratio": 0.5}
PLAIN = {"compare": [], "repair": "none"}
LETTERS = "etaoinshrdlu."


def edit_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def without_tokenizer(folder: Path) -> Path:
    for path in folder.glob("*token*"):
        path.unlink()
    return folder


def use_phobert(folder: Path, merges: list[str]) -> Path:
    """A tokenizer of two plain files, of which one has an ending of its own."""
    without_tokenizer(folder)
    pieces = [*(f"{letter}@@" for letter in LETTERS), *LETTERS]
    pieces += [merge.replace(" ", "").replace("</w>", "") + ("" if "</w>" in merge else "@@") for merge in merges]
    (folder / "vocab.txt").write_text("".join(f"{piece} 1\n" for piece in dict.fromkeys(pieces)))
    (folder / "bpe.codes").write_text("".join(f"{merge} 1\n" for merge in merges))
    settings = {"tokenizer_class": "PhobertTokenizer", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def use_sentencepiece(folder: Path, names: list[str]) -> None:
    """Untrained pieces for each letter, under several names."""
    import sentencepiece

    text = folder.parent / "letters.txt"
    text.write_text("\n".join(" ".join(LETTERS) + " the head of a model" for _ in range(50)))
    for name in names:
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(folder / "trained"), vocab_size=40, hard_vocab_limit=False, minloglevel=2
        )
        (folder / "trained.model").rename(folder / name)
        (folder / "trained.vocab").unlink()


def test_a_tokenizer_file_with_an_ending_of_its_own_goes_into_every_result(
    make_task: MakeTask, run: Run, tmp_path: Path
) -> None:
    folder = use_phobert(make_tiny_checkpoint(tmp_path / "model", "gpt2"), ["t h", "th e</w>"])
    task = make_task(options=PLAIN | {"export": ["dense"], "publish_ratios": [0.25]}, **MAGNITUDE)

    run(task)

    kept = next((task.staging / "revisions").iterdir())
    restored = headroom.restore(task.staging, tmp_path / "back")
    for result in (task.staging, task.staging / "dense", kept, restored):
        assert (result / "bpe.codes").read_bytes() == (folder / "bpe.codes").read_bytes()
        assert AutoTokenizer.from_pretrained(result)("the tho").input_ids == load_tokenizer(folder)("the tho").input_ids


@pytest.mark.filterwarnings("ignore:Recommended")
def test_both_vocabularies_of_a_translation_model_go_into_its_result(
    make_task: MakeTask, run: Run, tmp_path: Path
) -> None:
    pytest.importorskip("sentencepiece")
    folder = without_tokenizer(make_tiny_checkpoint(tmp_path / "model", "bart"))
    use_sentencepiece(folder, ["source.spm", "target.spm"])
    pieces = ["</s>", "<unk>", *(f"▁{letter}" for letter in LETTERS), *LETTERS, "▁", "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"mask_token": "<unk>"}))
    task = make_task(options=PLAIN, **MAGNITUDE)

    run(task)

    for name in ("source.spm", "target.spm", "vocab.json"):
        assert (task.staging / name).read_bytes() == (folder / name).read_bytes()
    assert AutoTokenizer.from_pretrained(task.staging)("a no").input_ids == load_tokenizer(folder)("a no").input_ids


def test_every_chat_template_goes_into_the_result_and_back(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", "llama")
    (folder / "chat_template.jinja").write_text("plain")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(
        "{% for tool in tools %}{{ tool.name }}{% endfor %}"
    )
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ documents }}")
    task = make_task(options=PLAIN | {"keep_removed": True}, **MAGNITUDE)

    run(task)

    for result in (task.staging, headroom.restore(task.staging, tmp_path / "back")):
        tokenizer = AutoTokenizer.from_pretrained(result)
        asked = [{"role": "user", "content": "x"}]
        assert tokenizer.apply_chat_template(asked, tokenize=False) == "plain"
        assert tokenizer.apply_chat_template(asked, tokenize=False, tools=[{"name": "ruler"}]) == "ruler"
        assert set(tokenizer.chat_template) == {"default", "rag", "tool_use"}


def test_a_file_of_the_folder_that_cannot_be_fetched_stays_behind(
    make_task: MakeTask, run: Run, tmp_path: Path
) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", "gpt2")
    for name in ("._config.json", "what?.json", "tokenizer (1).json", "Lizenz für alle.txt"):
        (folder / name).write_text("{}")
    task = make_task(options=PLAIN, **MAGNITUDE)

    run(task)

    names = {path.name for path in task.staging.iterdir()}
    assert {"tokenizer (1).json", "Lizenz für alle.txt"} <= names
    assert not {"._config.json", "what?.json"} & names


def test_another_tokenizer_file_is_another_entry_of_the_cache(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    folder = use_phobert(make_tiny_checkpoint(tmp_path / "model", "gpt2"), ["t h", "th e</w>"])
    first = run(make_task(options=PLAIN, **MAGNITUDE)).report
    again = run(make_task(options=PLAIN, **MAGNITUDE)).report
    (folder / "bpe.codes").write_text(
        "".join(f"{merge} 1\n" for merge in ("e t", "et a</w>", "o i", "t h", "th e</w>"))
    )
    changed = run(make_task(options=PLAIN, **MAGNITUDE)).report

    assert again["baseline"] == first["baseline"]
    assert changed["baseline"]["perplexity"] != first["baseline"]["perplexity"]
    assert len(list((tmp_path / "cache" / "hidden_states").iterdir())) == 2


def test_a_tokenizer_whose_package_is_missing_is_refused_by_the_name_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setattr(library_errors, "_is_there", lambda package: package != "sentencepiece")

    with pytest.raises(UnsupportedModel, match="the package sentencepiece, which the worker lacks") as raised:
        load_tokenizer(tmp_path)

    assert "tiktoken" not in raised.value.message
    assert "pip" not in raised.value.message


def test_a_tokenizer_file_under_a_name_that_cannot_be_fetched_is_refused_by_name(
    make_task: MakeTask, run: Run, tmp_path: Path
) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", "gpt2")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "a:b.jinja").write_text("x")

    with pytest.raises(UnsafeModel, match=r"a:b\.jinja"):
        run(make_task(options=PLAIN, **MAGNITUDE))


@pytest.mark.parametrize(
    ("stored", "stated"),
    [(torch.bfloat16, "float32"), (torch.float32, "bfloat16"), (torch.float16, "float32"), (torch.float16, "bfloat16")],
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_result_has_the_dtype_and_the_bytes_of_the_file_whatever_the_config_says(
    make_task: MakeTask, run: Run, tmp_path: Path, family: str, stored: torch.dtype, stated: str
) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", family, dtype=stored)
    edit_config(folder, dtype=stated)
    before = load_file(folder / "model.safetensors")
    task = make_task(options=PLAIN | {"keep_removed": True, "export": ["dense"]}, **MAGNITUDE)

    report = run(task).report

    item = stored.itemsize
    head = 264 * 32 * item
    assert report["bytes"]["head_before"] == head
    assert report["head"]["dtype"] == str(stored).removeprefix("torch.")
    assert {entry.dtype for entry in inspect_model(task.staging).tensors.values()} <= {
        {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[stored],
        "I32",
        "I64",
    }
    if family == "llama":  # a tied table must keep all of its columns
        assert report["bytes"]["checkpoint_after"] < report["bytes"]["checkpoint_before"]
    restored = load_file(headroom.restore(task.staging, tmp_path / "back") / "model.safetensors")
    assert before.keys() == restored.keys()
    assert all(restored[name].dtype == before[name].dtype for name in before)
    assert all(torch.equal(restored[name], before[name]) for name in before)
    assert all(tensor.dtype == stored for tensor in load_file(task.staging / "dense" / "model.safetensors").values())


def test_a_head_that_alone_is_wider_comes_back_bit_for_bit(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", "llama", dtype=torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].float() * (1 + 2**-12)  # more bits than bfloat16 has
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    task = make_task(options=PLAIN | {"keep_removed": True}, **MAGNITUDE)

    report = run(task).report

    restored = load_file(headroom.restore(task.staging, tmp_path / "back") / "model.safetensors")
    assert report["head"]["dtype"] == "float32"
    assert torch.equal(restored["lm_head.weight"], tensors["lm_head.weight"])
    assert restored["lm_head.weight"].dtype == torch.float32
    assert all(torch.equal(restored[name], tensors[name]) for name in tensors)


def test_where_config_and_weights_disagree_about_a_tie_the_weights_are_believed_everywhere(
    make_task: MakeTask, run: Run, tmp_path: Path
) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", "llama", tied=False)
    edit_config(folder, tie_word_embeddings=True)
    found = inspect_model(folder)
    task = make_task(options=PLAIN | {"export": ["dense"]}, **MAGNITUDE)

    report = run(task).report

    assert (found.is_tied, found.head) == (False, "lm_head.weight")
    assert report["head"]["tied"] is False
    for result in (task.staging, task.staging / "dense"):
        assert json.loads((result / "config.json").read_text())["tie_word_embeddings"] is False
    dense = load_file(task.staging / "dense" / "model.safetensors")
    assert not torch.equal(dense["lm_head.weight"], dense["model.embed_tokens.weight"])
    sliced = AutoModelForCausalLM.from_pretrained(task.staging)
    plain = AutoModelForCausalLM.from_pretrained(task.staging / "dense")
    ids = torch.tensor([[3, 80, 41]])
    assert torch.allclose(sliced(ids).logits, plain(ids).logits, atol=1e-4)


def test_the_names_of_a_result_are_those_of_the_source(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", "neox", tied=False)
    before = load_file(folder / "model.safetensors")
    assert "embed_out.weight" in before
    task = make_task(options=PLAIN | {"export": ["dense"], "keep_removed": True}, **MAGNITUDE)

    run(task)

    dense = load_file(task.staging / "dense" / "model.safetensors")
    restored = load_file(headroom.restore(task.staging, tmp_path / "back") / "model.safetensors")
    assert dense.keys() == restored.keys() == before.keys()
    assert all(torch.equal(restored[name], before[name]) for name in before)
    ids = torch.tensor([[3, 80, 41]])
    loaded = AutoModelForCausalLM.from_pretrained(task.staging / "dense")
    assert torch.allclose(loaded(ids).logits, AutoModelForCausalLM.from_pretrained(task.staging)(ids).logits, atol=1e-4)


def test_a_tied_model_whose_own_head_has_another_name_in_files_is_exported_under_it(
    make_task: MakeTask, run: Run, tmp_path: Path
) -> None:
    make_tiny_checkpoint(tmp_path / "model", "neox", tied=True)
    task = make_task(options=PLAIN | {"export": ["dense"]}, **MAGNITUDE)

    run(task)

    with safe_open(task.staging / "dense" / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert "embed_out.weight" in names
    assert "lm_head.weight" not in names


def test_an_emptied_tensor_is_named_with_both_of_its_shapes(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", "llama")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = torch.empty(0)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(CorruptCheckpoint) as raised:
        run(make_task(options=PLAIN, **MAGNITUDE))

    assert all(part in raised.value.message for part in (name, "[0]", "[64, 32]", "config.json"))
    assert "ignore_mismatched_sizes" not in raised.value.message


def test_a_head_that_the_model_never_calls_is_an_unsupported_head(
    make_task: MakeTask, run: Run, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intra_bottleneck_size": 16, "embedding_size": 16, "intermediate_size": 32}
    config = MobileBertConfig(
        vocab_size=264,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=260,
        **sizes,
    )
    MobileBertForMaskedLM(config).save_pretrained(tmp_path / "model")
    make_tokenizer(reads="masks").save_pretrained(tmp_path / "model")

    with pytest.raises(UnsupportedHead):
        run(make_task(options=PLAIN, **MAGNITUDE))


@pytest.mark.parametrize(
    ("family", "own", "value"), [("gpt2", "n_layer", -1), ("gpt2", "n_layer", 0), ("llama", "num_hidden_layers", -2)]
)
def test_a_config_whose_count_of_layers_means_nothing_is_refused_by_its_name(
    family: str, own: str, value: int, make_task: MakeTask, run: Run
) -> None:
    task = make_task(model={"family": family})
    edit_config(task.model.path, **{own: value})
    with pytest.raises(CorruptCheckpoint, match=f"config.json says {own} {value}: it must be"):
        run(task)
