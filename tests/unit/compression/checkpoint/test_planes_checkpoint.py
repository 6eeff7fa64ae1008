"""Checkpoints with a head in planes, written from tiny models of real classes and loaded as users load them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import headroom
from headroom.errors import InvalidArgument
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead
from service.models.model_files import inspect_model
from tests.plane_checkpoints import write_planes
from tests.tiny_models import FAMILIES, VOCABULARY, make_tiny_checkpoint

HIDDEN = 72  # no multiple of 32
IDS = torch.arange(3, 40).reshape(1, -1)
AUTO = {"masks": "AutoModelForMaskedLM", "text": "AutoModelForCausalLM", "sentinels": "AutoModelForSeq2SeqLM"}


def auto_class(family: str) -> str:
    return "AutoModelForSeq2SeqLM" if family in ("bart", "t5") else AUTO[FAMILIES[family].reads]


def load(folder: Path, family: str = "gpt2", **options: Any) -> Any:
    return getattr(transformers, auto_class(family)).from_pretrained(folder, **{"dtype": "auto"} | options).eval()


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    inputs = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    logits: Tensor = model(IDS, **inputs).logits.float()
    return logits


def error_of(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def make(root: Path, family: str, *, planes: dict[str, Any] | None = None, **model: Any) -> tuple[Path, Path]:
    """(source, checkpoint with planes)."""
    hidden = {} if family in ("bart", "t5", "distilbert") else {"hidden_size": HIDDEN}
    source = make_tiny_checkpoint(root / "source", family, **hidden | model)
    return source, write_planes(source, root / "planes", auto_class=auto_class(family), **planes or {})


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_loads_computes_and_comes_back_bit_for_bit(tmp_path: Path, family: str) -> None:
    source, folder = make(tmp_path, family, planes={"rescored": VOCABULARY})
    model = load(folder, family)
    assert isinstance(model.get_output_embeddings(), PlanesHead)
    assert isinstance(model.get_input_embeddings(), PlanesEmbedding) is FAMILIES[family].tied
    found = logits_of(model)
    assert error_of(found, logits_of(load(source, family))) < 0.03

    model.save_pretrained(tmp_path / "again")

    again = load(tmp_path / "again", family)
    assert torch.equal(logits_of(again), found)
    written, before = load_file(tmp_path / "again" / "model.safetensors"), load_file(folder / "model.safetensors")
    for name in written.keys() & before.keys():
        assert torch.equal(written[name], before[name]), name
    assert {
        name for name in before if name.endswith((".whole", ".high", ".low", ".scales", ".basis"))
    } <= written.keys()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_planes_generates_what_a_plain_loop_over_its_logits_gives(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    _, folder = make(tmp_path, family, dtype=dtype)
    model = load(folder, family)
    assert model.dtype == dtype
    written = model.generate(IDS[:, :5], max_new_tokens=8, do_sample=False, eos_token_id=None)
    ids = IDS[:, :5]
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat([ids, model(ids, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(written, ids)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_and_its_table_are_stored_once_in_little_more_than_half_the_bytes(tmp_path: Path, tied: bool) -> None:
    source, folder = make(tmp_path, "gpt2", tied=tied, dtype=torch.bfloat16)
    before, after = inspect_model(source).tensors, inspect_model(folder).tensors
    holder = "transformer.wte" if tied else "lm_head"
    planes = {name for name in after if name.split(".")[-1] in ("whole", "high", "low", "scales")}
    assert planes == {f"{holder}.{part}" for part in ("whole", "high", "low", "scales")}
    gone = {"transformer.wte.weight"} if tied else {"lm_head.weight"}
    assert before.keys() - after.keys() == gone
    # 8 bits of 16, and a scale of 16 bits for each 32 columns, of which the last group is short
    share = sum(after[name].nbytes for name in planes) / (VOCABULARY * HIDDEN * 2)
    assert share == pytest.approx(0.5 + 3 / HIDDEN)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "bert"])
def test_dense_modules_of_all_eight_bits_come_out(tmp_path: Path, family: str) -> None:
    _, folder = make(tmp_path, family)
    model = load(folder, family)
    headroom.set_head(model, bits=8)
    expected = logits_of(model)

    dense = model.dequantize()

    assert type(dense.get_output_embeddings()) is torch.nn.Linear
    assert error_of(logits_of(dense), expected) < 1e-5
    dense.save_pretrained(tmp_path / "dense")
    assert error_of(logits_of(load(tmp_path / "dense", family)), expected) < 1e-5


def test_settings_change_on_a_loaded_model_and_saving_writes_the_stored_ones(tmp_path: Path) -> None:
    _, folder = make(tmp_path, "gpt2", planes={"rescored": 4})
    model = load(folder)
    stored = logits_of(model)

    told = headroom.set_head(model, bits=2, rescored=0, columns=64)

    assert str(told) == f"all {VOCABULARY} logits are a preview of 2 bits of 64 columns"
    assert not torch.equal(logits_of(model), stored)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits_of(load(tmp_path / "again")), stored)
    assert str(headroom.set_head(model, rescored=10)).startswith("the best 10 logits of each position are exact")
    assert "all 264 logits are exact" in str(headroom.set_head(model, bits=8, columns=HIDDEN))
    headroom.set_head(model, bits=4, rescored=4)
    assert torch.equal(logits_of(model), stored)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"bits": 5}, "8, 4, 3 or 2 bits"),
        ({"rescored": -1}, "0 to 264 rows"),
        ({"rescored": 265}, "0 to 264 rows"),
        ({"columns": 31}, "32 to 72 columns"),
        ({"columns": 73}, "32 to 72 columns"),
    ],
)
def test_settings_that_a_head_has_not_are_refused(tmp_path: Path, asked: dict[str, int], told: str) -> None:
    _, folder = make(tmp_path, "gpt2")
    model = load(folder)
    before = headroom.head_setting(model)
    with pytest.raises(InvalidArgument, match=told):
        headroom.set_head(model, **asked)
    assert headroom.head_setting(model) == before


def test_a_plain_model_has_no_such_settings(tmp_path: Path) -> None:
    source, _ = make(tmp_path, "gpt2")
    with pytest.raises(InvalidArgument, match="Linear"):
        headroom.set_head(load(source), bits=8)


def test_the_mean_that_repairs_a_narrower_preview_is_stored_and_used(tmp_path: Path) -> None:
    mean = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(4))
    _, folder = make(tmp_path, "gpt2", planes={"mean_hidden": mean})
    head = load(folder).get_output_embeddings()
    assert torch.equal(head.mean_hidden.view(torch.float32), mean)
    head.read(8, 0, HIDDEN)
    full = head(mean[None])
    head.read(8, 0, 64)
    torch.testing.assert_close(head(mean[None]), full, rtol=1e-4, atol=1e-4)


def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", "gpt2", hidden_size=HIDDEN)
    whole = write_planes(source, tmp_path / "whole")
    sharded = write_planes(source, tmp_path / "sharded", max_shard_bytes=50_000)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert torch.equal(logits_of(load(sharded)), logits_of(load(whole)))


def test_a_tied_model_can_be_given_a_head_of_its_own(tmp_path: Path) -> None:
    source, folder = make(tmp_path, "gpt2", planes={"keep_tied": False})
    model = load(folder)
    table = load_file(source / "model.safetensors")["transformer.wte.weight"]
    assert torch.equal(model.get_input_embeddings().weight, table)
    assert not model.config.tie_word_embeddings


def changed_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= fields
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"version": 3}, "format 3, this package reads 1 and 2"),
        ({"head": "wavelets"}, "does not read heads of wavelets"),
        ({"bits": 5}, "groups of 32 and 5 bits"),
        ({"group": 64}, "groups of 64"),
        ({"whole_columns": 33}, "33 whole columns"),
        ({"rescored": -1}, "-1 rows rescored"),
        ({"tails": 7}, "does not know tails"),
    ],
)
def test_a_description_that_means_nothing_here_is_refused(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    _, folder = make(tmp_path, "gpt2")
    changed_config(folder, **fields)
    with pytest.raises(ValueError, match=told):
        load(folder)


@pytest.mark.parametrize("part", ["whole", "high", "low", "scales"])
@pytest.mark.parametrize("damage", ["shape", "gone"])
def test_planes_that_disagree_are_refused(tmp_path: Path, part: str, damage: str) -> None:
    _, folder = make(tmp_path, "gpt2")
    path, name = folder / "model.safetensors", f"transformer.wte.{part}"
    tensors = load_file(path)
    if damage == "gone":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{name} is .* download it again"):
        load(folder)


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    _, folder = make(tmp_path, "llama")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.scales"][3, 1] = torch.tensor([float("inf")]).bfloat16().view(torch.int16)[0]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="a scale of its planes is not finite"):
        load(folder, "llama")


def test_planes_of_another_model_fail_the_fingerprint(tmp_path: Path) -> None:
    _, folder = make(tmp_path, "llama")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.whole"], tensors["lm_head.high"] = (
        tensors["lm_head.whole"].flip(0),
        tensors["lm_head.high"].flip(0),
    )
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not reproduce its fingerprint"):
        load(folder, "llama")


@pytest.mark.parametrize(("family", "keep_tied"), [("gpt2", True), ("gpt2", False), ("llama", True), ("bert", True)])
def test_restoring_gives_the_dense_checkpoint_that_plain_transformers_loads(
    tmp_path: Path, family: str, keep_tied: bool
) -> None:
    source, folder = make(tmp_path, family, planes={"keep_tied": keep_tied})
    back = headroom.restore(folder, tmp_path / "back")
    before, after = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    assert after.keys() - {"cls.predictions.decoder.bias"} == before.keys()  # the bias of BERT has two names
    assert "quantization_config" not in json.loads((back / "config.json").read_text())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    table = {"gpt2": "transformer.wte.weight", "bert": "bert.embeddings.word_embeddings.weight"}
    # A head that was untied for its planes gives way to the table, which was copied: that comes back bit for bit.
    assert changed == (set() if not keep_tied else {table.get(family, "lm_head.weight")})
    assert all(error_of(after[name], before[name]) < 0.01 for name in changed)
    assert error_of(logits_of(load(back, family)), logits_of(load(source, family))) < 0.03


def test_a_check_of_the_last_position_gives_what_all_positions_give_there(tmp_path: Path) -> None:
    model = load(make(tmp_path, "llama", planes={"rescored": VOCABULARY})[1], "llama")
    with model.get_output_embeddings().answering_once():
        last = logits_of(model)
    assert last.shape[1] == 1
    assert error_of(last[0, -1], logits_of(model)[0, -1]) < 1e-4
    assert logits_of(model).shape[1] == IDS.shape[1]
