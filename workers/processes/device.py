"""Which device a job runs on, and what it has free. Loads torch, so only a job's own process calls it."""

import os
from contextlib import suppress
from pathlib import Path

import psutil

from service.foundation.errors import InternalError

CGROUP = Path("/sys/fs/cgroup")  # of this container, or of the whole machine, which has no limit there


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


def free_memory(device: str) -> int:
    """Bytes that a job could take now on a device that `choose_device` gave."""
    import torch

    if device != "cpu":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    return min([int(psutil.virtual_memory().available), *_left_in_cgroup(CGROUP)])


def _left_in_cgroup(folder: Path) -> list[int]:
    """What is free of a container's memory limit, if it has one. Cached files count as free, as for the machine."""
    with suppress(OSError, ValueError):  # no limit ("max"), or no cgroups of version 2
        limit = int((folder / "memory.max").read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used = int((folder / "memory.current").read_text()) - int(statistics.get("inactive_file", 0))
        return [max(limit - used, 0)]
    return []
