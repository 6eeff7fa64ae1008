"""What a step of decoding takes on the worker's device, before and after: of the head alone and of the whole model.

A few seconds in all, of plain eager calls: bytes say what a kernel could save, this what these modules do save here.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from headroom.contract.report.times import StepTime, TimesOfReport
from service.compression.states.decoding_cost import BATCHES, seconds_of_heads, seconds_per_token
from service.compression.states.model_loading import load_model
from service.compression.states.offloading import Room, is_offloaded
from service.compression.states.source import Source


def measure_times(source: Source, stored: Any, room: Room) -> TimesOfReport:
    """Seconds of a step before and after. stored: the stored model, loaded; room: for both models at a time."""
    device, head = stored.device, source.head
    weight = head.weight.to(device)
    bias = None if head.module_bias is None else head.module_bias.to(device)

    def original(hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden.to(weight.dtype), weight, bias)  # a file may keep its head in another dtype

    own = stored.get_output_embeddings()
    hidden = source.evaluation.first(max(BATCHES)).to(device)
    steps = None
    if room.block_bytes is None and not is_offloaded(stored):
        steps = _whole_steps(source, stored, room)
    return TimesOfReport(
        device=str(device),
        threads=torch.get_num_threads() if device.type == "cpu" else None,
        head=seconds_of_heads(original, own, hidden),
        step=steps,
    )


def _whole_steps(source: Source, stored: Any, room: Room) -> StepTime | None:
    """Seconds a token at batch 1; None for models that do not decode token by token."""
    inspection = source.inspection
    elements = sum(math.prod(entry.shape) for entry in inspection.tensors.values())
    original = load_model(inspection.path, inspection.config, source.reading.auto_class, elements, room)
    before, after = seconds_per_token(original, stored, source.evaluation.windows, source.reading)
    return None if before is None or after is None else StepTime(before=before, after=after)
