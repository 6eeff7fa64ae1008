"""Which device a job runs on. Loads torch, so only a job's own process calls it."""

import os

from service.errors import InternalError


def choose_device(wanted: str) -> str:
    """`auto` is CUDA where torch sees one. A device that is not there is an error, never silently another one."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    present = {"cpu"} | ({"cuda"} if count else set()) | {f"cuda:{index}" for index in range(count)}
    if wanted not in present:
        raise InternalError(f"HEADROOM_DEVICE is {wanted!r}, but this machine has {', '.join(sorted(present))}")
    return wanted


def set_threads(threads: int) -> None:
    """Torch's threads for one operation; 0: as many as this process may use."""
    import torch

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
