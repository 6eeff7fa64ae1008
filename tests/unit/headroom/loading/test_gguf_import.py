"""A GGUF file becomes a folder that plain transformers loads, whole or not at all."""

import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from headroom import cli
from headroom.errors import InvalidArgument
from headroom.loading import gguf_import
from headroom.loading.gguf_import import import_gguf
from service.models.model_files import inspect_model
from tests.gguf_files import write_gguf
from tests.tiny_models import make_tokenizer

Output = pytest.CaptureFixture[str]
TEXT = "Words, ümlauts and 123 numbers."


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(1, 33)[None]).logits


@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_tokens_are_those_of_the_file(tmp_path: Path, tied: bool) -> None:
    model = write_gguf(tmp_path / "tiny.gguf", tied=tied)
    made = import_gguf(tmp_path / "tiny.gguf", "acme/tiny", tmp_path / "models", "float32")
    assert made.folder == tmp_path / "models/acme/tiny"
    assert made.parameters == sum(parameter.numel() for parameter in model.parameters())
    loaded = AutoModelForCausalLM.from_pretrained(made.folder)
    assert loaded.config.tie_word_embeddings is tied
    assert torch.equal(logits_of(loaded), logits_of(model))
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    assert tokenizer(TEXT).input_ids == make_tokenizer()(TEXT).input_ids
    assert tokenizer("ab").input_ids == [257]


def test_by_default_weights_are_bfloat16_and_the_service_takes_the_folder(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf", rounded=True)
    made = import_gguf(tmp_path / "tiny.gguf", "acme/tiny", tmp_path / "models")
    found = inspect_model(made.folder)
    assert (found.dtype, found.vocab_size, found.hidden_size, found.is_tied) == ("bfloat16", 264, 32, False)
    assert "quantization_config" not in found.config
    loaded = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32)
    wanted, obtained = logits_of(model), logits_of(loaded)
    assert 0 < float((wanted - obtained).norm() / wanted.norm()) < 0.05  # 8 bits a weight, and 8 bits of bfloat16


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("layer", {"without": {"blk.1.ffn_up.weight"}}, "lacks 1 of the model's tensors, model.layers.1.mlp.up_proj"),
        ("strange", {"architecture": "strange"}, "cannot be read as a model: .*strange"),
        ("mute", {"tokenizer": False}, "holds no tokenizer that can be read"),
    ],
)
def test_a_file_that_is_no_whole_model_is_refused(
    tmp_path: Path, name: str, fields: dict[str, Any], sentence: str
) -> None:
    write_gguf(tmp_path / f"{name}.gguf", **fields)
    with pytest.raises(InvalidArgument, match=sentence):
        import_gguf(tmp_path / f"{name}.gguf", "acme/tiny", tmp_path / "models")
    assert list((tmp_path / "models/acme").iterdir()) == []


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.3, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_refused_in_a_sentence(tmp_path: Path, share: float) -> None:
    write_gguf(tmp_path / "whole.gguf")
    data = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: max(8, int(share * len(data)))])
    with pytest.raises(InvalidArgument, match=r"'cut\.gguf' cannot be read as a model: .*may be damaged\.$"):
        import_gguf(tmp_path / "cut.gguf", "acme/tiny", tmp_path / "models")
    assert list((tmp_path / "models/acme").iterdir()) == []


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    tail = 1024  # of the last tensor, float32
    (tmp_path / "tiny.gguf").write_bytes(data[:-tail] + b"\xff" * tail)
    with pytest.raises(InvalidArgument, match="logits are not finite"):
        import_gguf(tmp_path / "tiny.gguf", "acme/tiny", tmp_path / "models")


@pytest.mark.parametrize("name", ["tiny", "../tiny", "acme/../tiny", "acme/", "a/b/c", "/acme/tiny", ""])
def test_a_name_that_is_not_ns_name_is_refused(tmp_path: Path, name: str, capsys: Output) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    arguments = ["models", "import", str(tmp_path / "tiny.gguf"), "--as", name, "--models-dir", str(tmp_path / "m")]
    assert cli.run(arguments) == 2
    assert "is no name of a model; it is <ns>/<name>" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_what_is_there_stays(tmp_path: Path, capsys: Output) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "m/acme/tiny").mkdir(parents=True)
    arguments = ["models", "import", str(tmp_path / "tiny.gguf"), "--as", "acme/tiny", "--models-dir"]
    assert cli.run([*arguments, str(tmp_path / "m")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert list((tmp_path / "m/acme/tiny").iterdir()) == []


def test_other_files_and_other_dtypes_are_refused(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "text.gguf").write_text("words")
    end = ["--as", "acme/tiny", "--models-dir", str(tmp_path / "m")]
    for file, sentence in (("text.gguf", "is no GGUF file"), ("absent.gguf", "is no file"), (".", "is no file")):
        assert cli.run(["models", "import", str(tmp_path / file), *end]) == 2
        assert sentence in capsys.readouterr().err
    assert cli.run(["models", "import", str(tmp_path / "text.gguf"), *end, "--dtype", "int4"]) == 2
    assert "take bfloat16, float16, float32" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    find = importlib.util.find_spec
    monkeypatch.setattr(gguf_import.importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    arguments = ["models", "import", str(tmp_path / "tiny.gguf"), "--as", "acme/tiny", "--models-dir"]
    assert cli.run([*arguments, str(tmp_path / "m")]) == 2
    assert "Reading GGUF needs gguf, not installed here: pip install 'headroom-lm[gguf]'" in capsys.readouterr().err


def test_the_command_tells_what_it_made(tmp_path: Path, capsys: Output) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    arguments = ["models", "import", str(tmp_path / "tiny.gguf"), "--as", "acme/tiny", "--models-dir"]
    assert cli.run([*arguments, str(tmp_path / "m"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["folder"] == str(tmp_path / "m/acme/tiny")
    assert (made["id"], made["architecture"], made["dtype"]) == ("acme/tiny", "LlamaForCausalLM", "bfloat16")
    shutil.rmtree(tmp_path / "m")
    assert cli.run([*arguments, str(tmp_path / "m")]) == 0
    assert capsys.readouterr().out.startswith("acme/tiny: LlamaForCausalLM, 37,536 parameters, bfloat16, in ")


def test_an_import_that_is_stopped_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """A real signal, to this process: where nothing handles it, all of these tests end."""
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf_import, "_check", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    arguments = ["models", "import", str(tmp_path / "tiny.gguf"), "--as", "acme/tiny", "--models-dir"]
    assert cli.run([*arguments, str(tmp_path / "m")]) == 130, capsys.readouterr().err
    assert list((tmp_path / "m/acme").iterdir()) == []
