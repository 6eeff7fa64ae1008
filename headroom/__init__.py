"""What a consumer installs: loader, HTTP client and command line for checkpoints with a sliced head.

Importing this package makes `AutoModelForCausalLM.from_pretrained` read headroom checkpoints. Neither torch nor
transformers is imported here: registration happens when transformers itself is first used to load something.
"""

from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from headroom.client import Client

__all__ = ["Client"]


@wrapt.when_imported("transformers.quantizers.auto")
def _register(module: Any) -> None:
    import headroom.transformers_plugin  # noqa: F401  # registers itself


def __getattr__(name: str) -> Any:
    if name == "Client":
        from headroom.client import Client

        return Client
    raise AttributeError(f"module 'headroom' has no attribute {name!r}")
