"""What a server leaves running: processes that name its data directory."""

from pathlib import Path

import psutil


def processes_naming(folder: Path) -> list[psutil.Process]:
    """Live processes with this data directory in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            named = str(folder) in " ".join([*process.cmdline(), *process.environ().values()])
            if named and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
