"""What a consumer installs: loader, HTTP client and command line for checkpoints with a sliced head.

Importing this package makes `AutoModelForCausalLM.from_pretrained` read headroom checkpoints. Neither torch nor
transformers is imported here: registration happens when transformers itself is first used to load something.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from headroom.client import Client
    from headroom.column_prefix import kept_columns, set_kept_columns
    from headroom.monitoring import Monitor, Stats, monitor
    from headroom.restoring import restore

__all__ = ["Client", "Monitor", "Stats", "kept_columns", "monitor", "restore", "set_kept_columns"]

# Where each name is, imported when it is asked for: only some of them need torch.
HOMES = {
    "Client": "headroom.client",
    "Monitor": "headroom.monitoring",
    "Stats": "headroom.monitoring",
    "kept_columns": "headroom.column_prefix",
    "monitor": "headroom.monitoring",
    "restore": "headroom.restoring",
    "set_kept_columns": "headroom.column_prefix",
}


@wrapt.when_imported("transformers.quantizers.auto")
def _register(module: Any) -> None:
    import headroom.transformers_plugin  # noqa: F401  # registers itself


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'headroom' has no attribute {name!r}")
