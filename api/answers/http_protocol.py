"""Which protocol uvicorn speaks HTTP with: ours, by which the kernel sends files, or its own where ours does not fit.

zero_copy.py stands on parts of uvicorn that its documentation does not name. Where a release has moved one of them, the
server goes on without the extension, and files are read and sent in chunks (downloads.py).
"""

import asyncio
import logging
from typing import Any

import uvicorn

EXTENSION = "http.response.zerocopysend"  # https://asgi.readthedocs.io/en/latest/extensions.html#zero-copy-send

logger = logging.getLogger(__name__)


def http_protocol() -> Any:
    """The protocol for `uvicorn.Config(http=...)`: with zero copies where this uvicorn allows it."""
    try:
        from api.answers.zero_copy import ZeroCopyProtocol

        missing = _missing(ZeroCopyProtocol)
    except Exception as error:  # whatever a release that we do not know raises: it must not keep the server down
        missing = [f"{type(error).__name__}: {error}"]
    else:
        if not missing:
            return ZeroCopyProtocol
    logger.warning("this uvicorn lacks what sends files without copies (%s): they are copied", ", ".join(missing))
    return "auto"


def _missing(protocol: type) -> list[str]:
    """Names that zero_copy.py reads, of a connection, its cycle and its flow control."""
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle
    from uvicorn.server import ServerState

    loop = asyncio.new_event_loop()
    try:
        connection = protocol(uvicorn.Config(_nothing, log_config=None), ServerState(), {}, loop)
        names = ("app", "conn", "cycle", "flow", "loop", "scheme", "transport", "connection_lost")
        found = [name for name in names if not hasattr(connection, name)]
        found += [] if hasattr(connection.conn, "send_with_data_passthrough") else ["send_with_data_passthrough"]
    finally:
        loop.close()
    found += [] if hasattr(FlowControl, "drain") else ["drain"]
    # Set when a request begins, so that only the code tells of it.
    return found + ([] if "disconnected" in RequestResponseCycle.__init__.__code__.co_names else ["disconnected"])


async def _nothing(scope: Any, receive: Any, send: Any) -> None: ...
