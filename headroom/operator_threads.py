"""How many threads torch's operators use. Needs torch only.

Thousands of small operators on a CPU need a barrier between cores each, which on a busy machine costs far more than
the operators: work that consists of them is quicker on one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_threaded_operators() -> Iterator[int]:
    """Inside, torch operators use one thread; gives how many they used outside. Process-wide, put back at the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
