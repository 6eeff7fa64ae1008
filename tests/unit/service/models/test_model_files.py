import json
import os
from pathlib import Path
from typing import Any

import pytest

from service.foundation.errors import CorruptCheckpoint, UnsafeModel, UnsupportedModel
from service.models.model_files import digest_model, inspect_model, refuse_outside_links
from tests.factories import write_model_files, write_safetensors


def make_sharded(folder: Path, weight_map: dict[str, Any]) -> Path:
    """Two files: `a` holds the embedding, `b` the head; the index says what the caller wants."""
    write_model_files(folder)
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "a.safetensors", {"model.embed_tokens.weight": [32, 16]})
    write_safetensors(folder / "b.safetensors", {"lm_head.weight": [32, 16]})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


HONEST_MAP = {"model.embed_tokens.weight": "a.safetensors", "lm_head.weight": "b.safetensors"}


def test_an_untied_model_tells_its_head(tmp_path: Path) -> None:
    found = inspect_model(write_model_files(tmp_path / "m"))
    assert (found.head, found.is_tied, found.vocab_size, found.hidden_size) == ("lm_head.weight", False, 32, 16)
    assert found.dtype == "float32"
    assert found.files == ("model.safetensors",)
    assert found.nbytes == (tmp_path / "m/model.safetensors").stat().st_size


def test_a_tied_model_names_its_embedding_as_the_head(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "m", {"transformer.wte.weight": [32, 16]}, tie_word_embeddings=True)
    found = inspect_model(folder)
    assert (found.head, found.is_tied) == ("transformer.wte.weight", True)


def test_where_the_config_is_silent_a_model_without_a_head_of_its_own_is_tied(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "m", {"wte.weight": [32, 16]}, tie_word_embeddings=None)
    assert inspect_model(folder).is_tied


@pytest.mark.parametrize(
    ("head", "table"),
    [
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
        ("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"),
    ],
)
def test_a_masked_model_is_tied_unless_its_config_says_otherwise(tmp_path: Path, head: str, table: str) -> None:
    tensors = {head: [32, 16], table: [32, 16]}  # old files hold the table under both names
    silent = inspect_model(write_model_files(tmp_path / "silent", tensors, tie_word_embeddings=None))
    assert (silent.head, silent.is_tied) == (table, True)
    untied = inspect_model(write_model_files(tmp_path / "untied", tensors, tie_word_embeddings=False))
    assert (untied.head, untied.is_tied) == (head, False)


def test_an_encoder_decoder_names_the_table_that_its_halves_share(tmp_path: Path) -> None:
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    folder = write_model_files(tmp_path / "m", {name: [32, 16] for name in names}, tie_word_embeddings=None)
    assert inspect_model(folder).head == "shared.weight"


def test_a_sharded_model_is_one_table(tmp_path: Path) -> None:
    found = inspect_model(make_sharded(tmp_path / "m", HONEST_MAP))
    assert found.files == ("a.safetensors", "b.safetensors")
    assert found.tensors["lm_head.weight"].file == "b.safetensors"


@pytest.mark.parametrize(
    ("weight_map", "complaint"),
    [
        (HONEST_MAP | {"lm_head.weight": "../b.safetensors"}, "no file name"),
        (HONEST_MAP | {"lm_head.weight": "/etc/b.safetensors"}, "no file name"),
        (HONEST_MAP | {"lm_head.weight": "b.bin"}, "no file name"),
        (HONEST_MAP | {"lm_head.weight": 7}, "no file name"),
        (HONEST_MAP | {"model.norm.weight": "c.safetensors"}, r"c\.safetensors"),
        (HONEST_MAP | {"model.norm.weight": "a.safetensors"}, "is not in a"),
        (HONEST_MAP | {"lm_head.weight": "a.safetensors"}, "is not in a"),
        ({"model.embed_tokens.weight": "a.safetensors", "x": "b.safetensors"}, "is not in b"),
        ({}, "weight_map"),
        ([], "weight_map"),
    ],
)
def test_an_index_that_disagrees_with_its_files_is_refused(tmp_path: Path, weight_map: Any, complaint: str) -> None:
    with pytest.raises(CorruptCheckpoint, match=complaint):
        inspect_model(make_sharded(tmp_path / "m", weight_map))


def test_a_tensor_that_no_index_lists_is_refused(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "m", HONEST_MAP)
    write_safetensors(folder / "b.safetensors", {"lm_head.weight": [32, 16], "stowaway": [1]})
    with pytest.raises(CorruptCheckpoint, match="stowaway"):
        inspect_model(folder)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = make_sharded(tmp_path / "m", HONEST_MAP)
    write_safetensors(folder / "b.safetensors", {"lm_head.weight": [32, 16], "model.embed_tokens.weight": [32, 16]})
    with pytest.raises(CorruptCheckpoint, match=r"is in a\.safetensors and in b\.safetensors"):
        inspect_model(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}},
        {"text_config": {"auto_map": {}}},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": "someone/kernel@main:fn"},
        {"_attn_implementation_internal": "a/b"},
        {"text_config": {"deeper": [{"attn_implementation": "a/b"}]}},
        {"attn_implementation": {"text_config": "a/b"}},
        {"attn_implementation": "kernel@v1"},
        {"experts_implementation": "a/b"},
    ],
)
def test_a_config_that_asks_for_foreign_code_is_unsafe(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(UnsafeModel, match=r"config\.json"):
        inspect_model(write_model_files(tmp_path / "m", **config))


def test_a_tokenizer_that_asks_for_foreign_code_is_unsafe(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["x.Y", null]}}')
    with pytest.raises(UnsafeModel, match=r"tokenizer_config\.json"):
        inspect_model(folder)


def test_plain_attention_names_are_fine(tmp_path: Path) -> None:
    inspect_model(write_model_files(tmp_path / "m", attn_implementation="sdpa", _attn_implementation=None))


def test_an_adapter_is_refused_because_it_points_elsewhere(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "m")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    with pytest.raises(UnsafeModel, match="adapter"):
        inspect_model(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "weights.ckpt"])
def test_pickle_only_folders_are_unsafe(tmp_path: Path, name: str) -> None:
    folder = write_model_files(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(UnsafeModel, match="pickle"):
        inspect_model(folder)


def test_pickle_beside_safetensors_is_left_alone(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "m")
    (folder / "training_args.bin").write_bytes(b"\x80")
    inspect_model(folder)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (b"", "damaged"),
        (b"[]", "not a JSON object"),
        (b'{"architectures": ["X"]', "damaged"),
        (b'{"model_type": "gpt2"}', "architecture"),
        (b'{"architectures": [], "model_type": "gpt2"}', "architecture"),
        (b'{"architectures": "GPT2LMHeadModel", "model_type": "gpt2"}', "architecture"),
        (b'{"architectures": ["X"]}', "model_type"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a":' * 100_000, "damaged"),
    ],
)
def test_a_broken_config_is_corrupt(tmp_path: Path, config: bytes, complaint: str) -> None:
    folder = write_model_files(tmp_path / "m")
    (folder / "config.json").write_bytes(config)
    with pytest.raises(CorruptCheckpoint, match=complaint):
        inspect_model(folder)


def test_infinity_in_a_config_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    assert inspect_model(write_model_files(tmp_path / "m", time_step_limit=float("inf"))).config["time_step_limit"] > 1


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = write_model_files(tmp_path / "m")
    (folder / missing).unlink()
    with pytest.raises(CorruptCheckpoint, match=missing):
        inspect_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path, name: str) -> None:
    folder = write_model_files(tmp_path / "m")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CorruptCheckpoint, match="regular file"):
        inspect_model(folder)


def test_a_head_that_contradicts_the_config_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match="32 rows, but vocab_size is 31"):
        inspect_model(write_model_files(tmp_path / "m", vocab_size=31))


def test_the_digest_changes_with_any_weight_and_with_the_config(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "m")
    before = digest_model(inspect_model(folder))
    assert digest_model(inspect_model(folder)) == before

    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    changed = digest_model(inspect_model(folder))
    assert changed != before

    write_model_files(folder, rope_theta=1.5)
    assert digest_model(inspect_model(folder)) not in {before, changed}


def test_a_link_out_of_the_models_directory_is_unsafe(tmp_path: Path) -> None:
    outside = write_model_files(tmp_path / "outside")
    root = tmp_path / "models"
    inside = write_model_files(root / "ns/inside")
    refuse_outside_links(inside, root)

    (root / "ns/linked").symlink_to(outside)
    with pytest.raises(UnsafeModel, match="linked is a link"):
        refuse_outside_links(root / "ns/linked", root)

    (inside / "generation_config.json").symlink_to("/etc/hostname")
    with pytest.raises(UnsafeModel, match="generation_config"):
        refuse_outside_links(inside, root)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "head", "shape"),
    [
        ("docs-gpt2-13m", "transformer.wte.weight", (16384, 320)),
        ("docs-llama-untied-12m", "lm_head.weight", (16384, 256)),
    ],
)
def test_the_reference_models_are_understood(name: str, head: str, shape: tuple[int, int]) -> None:
    folder = Path(__file__).parents[5] / "shared/models" / name
    if not folder.is_dir():
        pytest.skip("the shared reference models are not here")
    found = inspect_model(folder)
    assert (found.head, found.tensors[head].shape, found.dtype) == (head, shape, "bfloat16")


@pytest.mark.parametrize("value", ["torch.bfloat16", "bf16", 16, ["float32"]])
@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_a_dtype_that_is_none_is_refused_with_the_name_of_its_field(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(CorruptCheckpoint, match=f"config.json has {key} "):
        inspect_model(write_model_files(tmp_path / "m", **{key: value}))
    with pytest.raises(CorruptCheckpoint, match=rf"config.json has text_config\.{key} "):
        inspect_model(write_model_files(tmp_path / "inner", text_config={key: value}))
    inspect_model(write_model_files(tmp_path / "fine", **{key: "bfloat16"}))


def test_a_quantised_head_is_refused_although_the_config_does_not_tell(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "m")
    header = {
        "model.embed_tokens.weight": {"dtype": "BF16", "shape": [32, 16], "data_offsets": [0, 1024]},
        "lm_head.weight": {"dtype": "F8_E4M3", "shape": [32, 16], "data_offsets": [1024, 1536]},
        "lm_head.weight_scale": {"dtype": "F32", "shape": [32, 1], "data_offsets": [1536, 1664]},
    }
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded + b"\0" * 1664)

    with pytest.raises(UnsupportedModel, match=r"quantised already .*lm_head\.weight"):
        inspect_model(folder)


def test_a_head_of_other_content_than_the_table_is_its_own_whatever_the_config_says(tmp_path: Path) -> None:
    folder = write_model_files(tmp_path / "m", tie_word_embeddings=True)
    assert inspect_model(folder).is_tied  # both are zeros: stored twice
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")

    found = inspect_model(folder)

    assert (found.is_tied, found.head) == (False, "lm_head.weight")
