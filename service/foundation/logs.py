"""One way of logging for all processes: lines for people, or JSON with the ids of request, job and attempt in it.

Code logs through the standard library; what is bound with `structlog.contextvars` stands on every line of its context.
"""

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.types import Processor

LogFormat = Literal["text", "json"]


def configure_logging(format: LogFormat, stream: TextIO | None = None) -> None:
    """Make the root logger write to `stream` (standard error); replaces what another library has set there."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_describing(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(format)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request that we send


def _describing() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _rendering(format: LogFormat) -> list[Processor]:
    if format == "json":
        return [
            structlog.processors.EventRenamer("message"),
            structlog.processors.format_exc_info,  # not dict_tracebacks: it shows local variables, keys among them
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)
    ]
