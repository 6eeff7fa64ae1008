"""Products of 16-bit models in float32 where the CPU has no instructions for them."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from service.compression.numerics import wide_products
from service.compression.numerics.block_parallel import map_blocks
from service.compression.numerics.wide_products import WideProducts, fast_products, has_fast_products
from service.compression.states.hidden_states import forward

VOCAB = 64
CONFIGS = {
    "gpt2": GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    ),
    "llama": LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    ),
}
NARROW = (torch.bfloat16, torch.float16)


@pytest.fixture
def without_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_products, "has_fast_products", lambda dtype: dtype not in NARROW)


def model_of(name: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    wide = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=dtype).eval()
    model.load_state_dict(wide.state_dict())
    return model


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(
    "product",
    [
        lambda a, b: torch.nn.functional.linear(a, b, b[0]),
        lambda a, b: a @ b,
        lambda a, b: torch.addmm(a[0], a, b),
        lambda a, b: torch.bmm(a[None], b[None])[0],
        lambda a, b: torch.baddbmm(a[None], a[None], b[None])[0],
        lambda a, b: torch.einsum("ij,jk->ik", a, b),
        lambda a, b: torch.nn.functional.scaled_dot_product_attention(
            query=a[None, None], key=b[None, None], value=b[None, None]
        )[0, 0],
    ],
    ids=["linear", "matmul", "addmm", "bmm", "baddbmm", "einsum", "attention"],
)
@pytest.mark.parametrize("graded", [True, False], ids=["graded", "ungraded"])
def test_a_product_is_that_of_float32_rounded_once(product: Any, dtype: torch.dtype, graded: bool) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(16, 16).to(dtype), torch.randn(16, 16).to(dtype)
    with torch.inference_mode(not graded):
        expected = product(a.float(), b.float()).to(dtype)
        with WideProducts(dtype):
            found = product(a, b)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


def test_products_of_other_types_and_other_operators_are_left_alone() -> None:
    wide, integers = torch.randn(4, 4), torch.arange(4)
    with WideProducts(torch.bfloat16):
        assert torch.equal(wide @ wide, torch.mm(wide, wide))
        assert (wide @ wide).dtype == torch.float32
        assert (integers + 1).tolist() == [1, 2, 3, 4]
        assert (wide.bfloat16() + 1).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_gives_what_it_gives_by_itself_to_its_own_rounding(
    name: str, dtype: torch.dtype, without_instructions: None
) -> None:
    inputs = {"input_ids": torch.arange(32)[None]}
    with torch.inference_mode():
        exact = forward(model_of(name, torch.float32), inputs).logits
        plain = model_of(name, dtype)(**inputs, use_cache=False).logits.float()
        ours = forward(model_of(name, dtype), inputs).logits
    assert ours.dtype == dtype
    assert (ours.float() - exact).norm() < 1.5 * (plain - exact).norm() + 1e-6


def test_every_thread_of_a_pass_has_its_products_widened(
    without_instructions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    widened: list[torch.dtype] = []
    dispatch = WideProducts.__torch_dispatch__

    def counted(self: WideProducts, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in wide_products.PRODUCTS:
            widened.append(self._dtype)
        return dispatch(self, func, types, args, kwargs)

    monkeypatch.setattr(WideProducts, "__torch_dispatch__", counted)
    model = model_of("llama", torch.bfloat16)
    blocks = [{"input_ids": torch.arange(8)[None] + start} for start in range(4)]
    list(map_blocks(lambda inputs: forward(model, inputs).logits, blocks, torch.device("cpu")))
    assert len(widened) >= 4 * 2 * 7  # seven matrices a layer


def test_only_a_narrow_model_on_a_cpu_without_instructions_is_touched(without_instructions: None) -> None:
    assert isinstance(fast_products(model_of("llama", torch.bfloat16)), WideProducts)
    assert not isinstance(fast_products(model_of("llama", torch.float32)), WideProducts)
    assert not isinstance(fast_products(model_of("llama", torch.bfloat16).to("meta")), WideProducts)


def test_torch_says_what_this_cpu_multiplies() -> None:
    assert has_fast_products(torch.float32)
    assert all(isinstance(has_fast_products(dtype), bool) for dtype in NARROW)
