"""What a consumer installs: loader, HTTP client and command line for checkpoints with a sliced head.

Importing this package makes `AutoModelForCausalLM.from_pretrained` read headroom checkpoints. Neither torch nor
transformers is imported here: registration happens when transformers itself is first used to load something.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from headroom.client.client import Client
    from headroom.loading.column_prefix import kept_columns, set_kept_columns
    from headroom.loading.head_settings import HeadSetting, head_products, head_setting, set_head, set_wide_copy
    from headroom.loading.monitoring import Monitor, Stats, monitor
    from headroom.loading.products.product_choice import HeadProducts
    from headroom.loading.restoring import restore

__all__ = [
    "Client",
    "HeadProducts",
    "HeadSetting",
    "Monitor",
    "Stats",
    "head_products",
    "head_setting",
    "kept_columns",
    "monitor",
    "restore",
    "set_head",
    "set_kept_columns",
    "set_wide_copy",
]

# Where each name is, imported when it is asked for: only some of them need torch.
HOMES = {
    "Client": "headroom.client.client",
    "HeadProducts": "headroom.loading.products.product_choice",
    "HeadSetting": "headroom.loading.head_settings",
    "Monitor": "headroom.loading.monitoring",
    "Stats": "headroom.loading.monitoring",
    "head_products": "headroom.loading.head_settings",
    "head_setting": "headroom.loading.head_settings",
    "kept_columns": "headroom.loading.column_prefix",
    "monitor": "headroom.loading.monitoring",
    "restore": "headroom.loading.restoring",
    "set_head": "headroom.loading.head_settings",
    "set_kept_columns": "headroom.loading.column_prefix",
    "set_wide_copy": "headroom.loading.head_settings",
}


@wrapt.when_imported("transformers.quantizers.auto")
def _register(module: Any) -> None:
    import headroom.loading.transformers_plugin  # noqa: F401  # registers itself


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'headroom' has no attribute {name!r}")
