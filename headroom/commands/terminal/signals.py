"""TERM and HUP as Ctrl-C. It cleans nothing up: the blocks that are left do."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """TERM and HUP end the block as Ctrl-C does, so that a job is canceled and an embedded service stopped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    wanted = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, interrupt) for number in wanted}  # nohup stays in force
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
