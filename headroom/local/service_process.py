"""Run a module of the service and read what it says. This package imports none of it: they meet here and over HTTP."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from headroom.errors import HeadroomError, InvalidArgument


def module_command(name: str) -> list[str]:
    # -P: the current folder may hold packages with names like ours.
    return [sys.executable, "-P", "-m", name]


def ask_service(
    module: str, arguments: Sequence[str] = (), data_dir: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, on the settings of this environment. InvalidArgument where the service is not installed."""
    if importlib.util.find_spec("service") is None:
        raise InvalidArgument("The service is not installed here; run: pip install 'headroom-lm[api]'.")
    own = {"HEADROOM_DATA_DIR": str(data_dir.resolve())} if data_dir else {}
    return subprocess.run(
        [*module_command(module), *arguments], capture_output=True, text=True, env=dict(os.environ) | own
    )


def failure_of(done: subprocess.CompletedProcess[str], what: str) -> HeadroomError:
    """The last words of a process that did not answer as it should."""
    last_words = (done.stderr.strip() or "it said nothing").splitlines()[-1]
    return HeadroomError(f"{what} failed: {last_words.rstrip('.')}.", "server_failed")
