"""Debian's Chromium for tests, driven by playwright: no browser is fetched from anywhere else."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.debian_packages import ensure_installed

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Each window has two pages of Chromium's own behind its address bar, which no test writes into: most of its start.
# Of several --disable-features the last counts, and playwright gives one: what is here is added to that.
WITHOUT_ADDRESS_BAR = """#!/bin/sh
for argument do
  shift
  case $argument in --disable-features=*) argument=$argument,WebUIOmniboxPopup,WebUIOmniboxAimPopup ;; esac
  set -- "$@" "$argument"
done
exec '{program}' "$@"
"""


def find_chromium() -> str | None:
    """The program, installed first where nobody has to be asked."""
    if not any(map(shutil.which, NAMES)):
        ensure_installed("chromium")
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def started(program: str) -> Iterator[Browser]:
    # Chromium's sandbox does not start for root; the pages under test are ours.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        wrapper = Path(folder) / "chromium"
        wrapper.write_text(WITHOUT_ADDRESS_BAR.format(program=program))
        wrapper.chmod(0o755)
        browser = playwright.chromium.launch(executable_path=wrapper, args=[*flags, "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()
