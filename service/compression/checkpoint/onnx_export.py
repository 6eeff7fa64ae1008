"""A model as an ONNX graph: a sliced head with its own k, in standard operators only; a head in planes as planes.

float32, batch and sequence of any length, checked with onnxruntime against torch. Needs the extra `onnx`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headroom.loading.head import SlicedHead
from headroom.loading.planes_head import PlanesHead
from headroom.loading.quantized_head import RoundedHead
from service.compression.checkpoint.onnx_planes import graph_modules
from service.compression.states.hidden_states import forward
from service.foundation.errors import ExportUnavailable

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4  # of logits, absolute; relative where they are larger than 1
INPUTS = ("input_ids", "attention_mask")


class _Logits(nn.Module):
    """The model with two arguments and one result, as a graph wants it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return forward(self.model, {"input_ids": input_ids, "attention_mask": attention_mask}).logits


def check(*, is_encoder_decoder: bool) -> None:
    """ExportUnavailable for what cannot become a graph here, with what to do about it."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ExportUnavailable(
            f"the worker lacks {', '.join(missing)}: install 'headroom-lm[onnx]' there, or leave out the export 'onnx'"
        )
    if is_encoder_decoder:
        raise ExportUnavailable("encoder-decoders are not exported to ONNX: leave out the export 'onnx'")


def write(model: Any, path: Path, ids: Tensor) -> float:
    """Write the graph; the largest difference of its logits from torch's. ids: (windows, window), of real text.

    model: as load_stored gives it in float32, on the CPU; a rounded head is widened in place. A graph over 1.5 GB
    keeps its weights in a file beside it. ExportUnavailable when torch cannot write it, or when it says something else.
    """
    head = model.get_output_embeddings()
    if isinstance(head, RoundedHead):
        model.set_output_embeddings(_widened(head))
    wrapped = _Logits(model).eval()
    with _as_graph(model, head):
        _export(wrapped, path, ids)
    with _one_way(head):
        return _checked(wrapped, path, ids, head)


@contextmanager
def _as_graph(model: Any, head: nn.Module) -> Iterator[None]:
    """Inside, a head in planes is what a graph computes of it."""
    if not isinstance(head, PlanesHead):
        yield
        return
    table = model.get_input_embeddings()
    graph_head, graph_table = graph_modules(head)
    model.set_output_embeddings(graph_head)
    if graph_table is not None:
        model.set_input_embeddings(graph_table)
    yield
    model.set_output_embeddings(head)
    model.set_input_embeddings(table)


@contextmanager
def _one_way(head: nn.Module) -> Iterator[None]:
    """Inside, a head in planes widens rows in float32: no product of this machine's rounds more."""
    if isinstance(head, PlanesHead):
        head.reader.forget()
        with head.choice.unmeasured():
            yield
    else:
        yield


def _export(wrapped: _Logits, path: Path, ids: Tensor) -> None:
    sample = torch.stack([ids[0], ids[-1]])[:, : max(2, ids.shape[1] // 2)].contiguous()
    dynamic = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in INPUTS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's remarks on its own libraries
            program = torch.onnx.export(
                wrapped,
                (sample, torch.ones_like(sample)),
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=list(INPUTS),
                output_names=["logits"],
                verbose=False,
            )
            assert program is not None
            program.save(path)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ExportUnavailable(f"torch cannot write this model as ONNX ({reason}): leave out the export") from error


def _widened(head: RoundedHead) -> SlicedHead:
    """The same columns as float32 numbers: a graph of blocks of integers would be slower in most runtimes."""
    wide = SlicedHead(
        head.in_features, head.out_features, head.basis.shape[0], permutation=False, bias=head.bias is not None
    )
    wide.weight = nn.Parameter(head.columns(), requires_grad=False)
    wide.basis, wide.bias = head.basis, head.bias
    return wide


@torch.inference_mode()
def _checked(wrapped: _Logits, path: Path, ids: Tensor, head: nn.Module) -> float:
    """On one token, an odd length and the whole window, in several batches, with padding at the end."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    window = ids.shape[1]
    for batch, length, padding in ((1, 1, 0), (1, window, 0), (3, max(3, window // 2 - 1), 2)):
        rows = ids[torch.arange(batch) % ids.shape[0], :length]
        mask = torch.ones_like(rows)
        if padding:
            mask[0, -padding:] = 0
        expected = wrapped(rows, mask)
        (found,) = session.run(None, {"input_ids": rows.numpy(), "attention_mask": mask.numpy()})
        here = mask.bool()
        differences = (torch.from_numpy(found) - expected).abs() * _settled(wrapped, head, rows, mask)
        difference = float(differences[here].max())
        if not difference <= TOLERANCE * max(1.0, float(expected[here].abs().max())):
            raise ExportUnavailable(
                f"the ONNX graph's logits are off by {difference:.2g} at {batch} x {length} tokens: leave out the "
                "export 'onnx'"
            )
        worst = max(worst, difference)
    return worst


def _settled(wrapped: _Logits, head: nn.Module, rows: Tensor, mask: Tensor) -> Tensor | float:
    """(batch, tokens, vocab) bool: logits that are rescored, or not, whatever rounding does to a preview."""
    if not isinstance(head, PlanesHead) or not 0 < head.rescored < head.out_features:
        return 1.0
    setting = head.bits, head.rescored, head.preview_columns
    head.read(head.bits, 0, head.preview_columns)
    preview = wrapped(rows, mask)
    head.read(*setting)
    last = preview.topk(head.rescored, dim=-1).values[..., -1:]
    settled: Tensor = (preview - last).abs() > TOLERANCE * preview.abs().amax(-1, keepdim=True).clamp_min(1.0)
    return settled
