import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from service.foundation.logs import LogFormat, configure_logging


@pytest.fixture
def _as_before() -> Iterator[None]:
    """Put back what pytest had set up."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()


def written(format: LogFormat) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(format, stream)
    return stream


@pytest.mark.usefixtures("_as_before")
def test_a_json_line_holds_message_level_logger_time_and_what_is_bound() -> None:
    stream = written("json")
    structlog.contextvars.bind_contextvars(job_id="job_1", attempt=2)

    logging.getLogger("workers.attempts.attempt").warning("lost %d of %s", 3, "four")

    line: dict[str, Any] = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "message": "lost 3 of four",
        "level": "warning",
        "logger": "workers.attempts.attempt",
        "job_id": "job_1",
        "attempt": 2,
    }


@pytest.mark.usefixtures("_as_before")
def test_an_exception_stays_on_one_json_line() -> None:
    stream = written("json")
    try:
        raise ValueError("three\nlines\nhere")
    except ValueError:
        logging.getLogger("x").exception("broke")

    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["exception"].endswith("ValueError: three\nlines\nhere")


@pytest.mark.usefixtures("_as_before")
def test_a_text_line_says_the_same_without_colours() -> None:
    stream = written("text")
    structlog.contextvars.bind_contextvars(request_id="abc")

    logging.getLogger("api").info("said")

    line = stream.getvalue()
    assert "said" in line
    assert "request_id=abc" in line
    assert "\x1b" not in line


@pytest.mark.usefixtures("_as_before")
def test_values_of_local_variables_are_not_logged() -> None:
    """They may hold keys and texts of users."""
    stream = written("json")
    secret = "hunter2"
    try:
        raise ValueError(len(secret))
    except ValueError:
        logging.getLogger("x").exception("broke")

    assert "hunter2" not in stream.getvalue()


@pytest.mark.usefixtures("_as_before")
def test_configuring_again_replaces_the_handler() -> None:
    written("text")
    stream = written("json")
    logging.getLogger("x").info("once")
    assert len(stream.getvalue().splitlines()) == 1
