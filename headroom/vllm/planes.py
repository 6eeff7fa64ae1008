"""Heads in bit planes (format version 2) in vLLM: modules of headroom/loading with this rank's rows, and settings.

`--additional-config '{"headroom": {"bits": 3, "rescored": 1024}}'` reads the same stored tensors in another way.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from vllm.config import get_current_vllm_config

from headroom.loading.head_settings import set_head
from headroom.loading.planes_format import PLANES_VERSION, check
from headroom.loading.planes_head import PlanesEmbedding, PlanesHead

SETTINGS = ("bits", "rescored", "columns")


@dataclass(frozen=True)
class OneHead:
    """A model of nothing but a head: as much of one as set_head wants."""

    head: PlanesHead

    def get_output_embeddings(self) -> PlanesHead:
        return self.head


def is_planes(fields: dict[str, Any]) -> bool:
    return bool(fields["version"] == PLANES_VERSION)


def check_fields(fields: dict[str, Any]) -> None:
    """ValueError, with what to do, for what the modules cannot mean."""
    check(SimpleNamespace(**fields))


def asked_settings() -> dict[str, int]:
    """Settings in `additional_config`, by name; ValueError for an unknown one. Called while vLLM builds a model."""
    asked = (get_current_vllm_config().additional_config or {}).get("headroom", {})
    unknown = asked.keys() - set(SETTINGS)
    if unknown:
        raise ValueError(
            f"headroom's plugin knows {', '.join(SETTINGS)} in additional_config, not {', '.join(unknown)}"
        )
    return dict(asked)


def planes_head(fields: dict[str, Any], rows: int, table: PlanesEmbedding | None) -> PlanesHead:
    """The empty head in planes. table: the input table whose planes it reads, in a tied model."""
    sizes = (fields["hidden_size"], rows, fields["kept_columns"], fields["whole_columns"])
    return PlanesHead(
        *sizes,
        bits=fields["bits"],
        rescored=min(fields["rescored"], rows),
        preview_columns=fields["preview_columns"],
        bias=fields["bias"],
        has_mean=fields["mean_hidden"],
        table=table,
    )


def planes_table(fields: dict[str, Any], rows: int) -> PlanesEmbedding:
    """The empty input table in planes, not scaled: that is left to vLLM's code of the architecture."""
    sizes = (fields["hidden_size"], rows, fields["whole_columns"])
    return PlanesEmbedding(*sizes, unbasis=fields["unbasis"], scale=1.0, padding_idx=None)


def settle(head: PlanesHead, asked: dict[str, int]) -> None:
    """Have the head read as asked, and make what its first use would. A rank rescores no more rows than it has."""
    fitting = {name: min(value, head.out_features) if name == "rescored" else value for name, value in asked.items()}
    set_head(OneHead(head), **fitting)
    head.prepare()
