"""Debian packages that tests need: installed where that is possible without asking anybody.

Several pytest processes may ask at once: a file lock has one install while the others wait.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

LOCK = Path(tempfile.gettempdir()) / f"headroom-debian-packages-{os.geteuid()}.lock"
SECONDS = 280  # for one command; a mirror that does not answer must not hold up the tests for ever


@cache
def ensure_installed(package: str) -> bool:
    """Whether a package is there, after apt-get was asked for it once. Only root on Debian installs anything."""
    if _is_installed(package):
        return True
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_installed(package):  # another process may just have done it
            _run("apt-get", "update") and _run("apt-get", "install", "--yes", "--no-install-recommends", package)
    return _is_installed(package)


def _is_installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    found = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package], capture_output=True, text=True
    )
    return found.stdout == "installed"


def _run(*command: str) -> bool:
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
