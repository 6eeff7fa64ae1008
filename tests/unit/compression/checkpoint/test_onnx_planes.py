"""A head in planes as an ONNX graph computes it, against torch, over every setting that a checkpoint may store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import transformers
from torch import Tensor, nn

from headroom.loading import plane_codes
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead, PlanesTable
from service.compression.checkpoint.onnx_planes import graph_modules
from service.ports.engine import EngineOutcome, EngineTask

pytestmark = pytest.mark.slow

HIDDEN, VOCAB, WHOLE = 75, 301, 32  # no multiple of anything


def fill(table: PlanesTable) -> None:
    generator = torch.Generator().manual_seed(0)
    codes, scales = plane_codes.round_to_codes(torch.randn(VOCAB, HIDDEN, generator=generator))
    planes = plane_codes.split(codes, WHOLE)
    for name in ("whole", "high", "low"):
        getattr(table, name).copy_(getattr(planes, name))
    table.scales.copy_(scales.view(torch.int16))
    table.basis.data.copy_(torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=generator)).Q)


def make_head(*, bits: int, rescored: int, columns: int, bias: bool, table: PlanesEmbedding | None) -> PlanesHead:
    head = PlanesHead(HIDDEN, VOCAB, HIDDEN, WHOLE, bits=bits, rescored=rescored, bias=bias, has_mean=True, table=table)
    if table is None:
        fill(head)
    generator = torch.Generator().manual_seed(1)
    head.mean_hidden.copy_(torch.randn(HIDDEN, generator=generator).view(torch.int32))
    if head.bias is not None:
        head.bias.data.copy_(torch.randn(VOCAB, generator=generator))
    head.read(bits, rescored, columns)
    return head


def make_table() -> PlanesEmbedding:
    table = PlanesEmbedding(HIDDEN, VOCAB, WHOLE, unbasis=False, scale=2.0, padding_idx=None)
    fill(table)
    return table


def run_as_graph(module: nn.Module, given: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        module.eval(),
        (given,),
        dynamo=True,
        dynamic_shapes=({0: dynamic, 1: dynamic},),
        input_names=["x"],
        verbose=False,
    )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("bits", "rescored", "columns", "bias"),
    [(4, 16, HIDDEN, False), (4, 0, HIDDEN, True), (3, 16, HIDDEN, True), (2, 16, 64, True), (8, 0, HIDDEN, False)],
)
def test_logits_of_the_graph_are_those_of_the_head(
    bits: int, rescored: int, columns: int, bias: bool, tmp_path: Path
) -> None:
    head = make_head(bits=bits, rescored=rescored, columns=columns, bias=bias, table=None)
    h = torch.randn(2, 3, HIDDEN, generator=torch.Generator().manual_seed(2))
    graph = run_as_graph(graph_modules(head)[0], h, tmp_path / "head.onnx")
    expected = head(h)
    torch.testing.assert_close(graph(h), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(graph(h[:1, :1]), expected[:1, :1], rtol=1e-4, atol=1e-4)
    kinds = {node.op_type for node in onnx.load(tmp_path / "head.onnx").graph.node}
    assert "MatMulNBits" in kinds
    assert ({"TopK", "ScatterElements"} <= kinds) is (rescored > 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_table_that_the_head_shares_turns_whole_rows_back_and_is_stored_once(bits: int, tmp_path: Path) -> None:
    table = make_table()
    head = make_head(bits=bits, rescored=9, columns=HIDDEN, bias=False, table=table)
    graph_head, graph_table = graph_modules(head)
    assert graph_table is not None
    assert graph_table.planes is graph_head.planes
    ids = torch.tensor([[1, 2, 300], [4, 5, 6]])
    torch.testing.assert_close(graph_table(ids), table(ids), rtol=1e-5, atol=1e-5)
    graph = run_as_graph(nn.Sequential(graph_table, graph_head), ids, tmp_path / "model.onnx")
    torch.testing.assert_close(graph(ids), head(table(ids)), rtol=1e-4, atol=1e-3)
    initializers = onnx.load(tmp_path / "model.onnx").graph.initializer
    in_bytes = [tensor for tensor in initializers if tensor.data_type == onnx.TensorProto.UINT8]
    assert len(in_bytes) == (1 if bits == 8 else 2)  # what a preview reads, and the rest


# Of one layer: the tracing of a graph takes seconds for each.
@pytest.mark.parametrize("model", [{"family": "gpt2", "n_layer": 1}, {"family": "llama", "num_hidden_layers": 1}])
def test_a_job_exports_a_head_in_planes_and_says_how_far_the_graph_is_off(
    model: dict[str, Any], make_task: Callable[..., EngineTask], run: Callable[[EngineTask], EngineOutcome]
) -> None:
    options: dict[str, Any] = {"head_dtype": "planes", "planes": {"rescored": 16}, "export": ["onnx"], "window": 16}
    task = make_task(model=model, ratio=0, options=options | {"compare": []})
    (exported,) = run(task).report["exports"]
    assert exported["max_logit_difference"] < 1e-4
    session = onnxruntime.InferenceSession(task.staging / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    ids = torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()})
    stored = transformers.AutoModelForCausalLM.from_pretrained(task.staging, dtype=torch.float32)
    with torch.inference_mode():
        expected = stored(ids).logits
    off = (torch.from_numpy(found) - expected).abs() > 1e-4
    assert float(off.float().mean()) < 0.01  # at most rows at the edge of the rescored ones
    assert torch.equal(torch.from_numpy(found).argmax(-1), expected.argmax(-1))
