"""One job from the post to the files: progress on stderr, results on stdout, the outcome as an exit code."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headroom.client.client import Client
from headroom.client.job_handle import JobHandle
from headroom.commands.jobs.download import fetch
from headroom.commands.terminal.output import print_error, print_json
from headroom.contract.report.report import open_report
from headroom.errors import BAD_INPUT_CODES, HeadroomError
from headroom.views.progress import display_for
from headroom.views.rendering import console_for, show
from headroom.views.report_views import report_views

FAILED, BAD_INPUT, REJECTED, NOT_WORTH_IT, INTERRUPTED = 1, 2, 3, 4, 130
CANCEL_SECONDS = 20.0  # the service promises ten


@dataclass(frozen=True)
class Run:
    """What a command was asked for."""

    doing: str  # told before it starts, as "Compressing acme/tiny"
    post: Callable[[Client], JobHandle]
    folder: Path | None  # where the job's files go; None where it makes none
    as_json: bool


def follow(client: Client, run: Run) -> int:
    """Post, follow, fetch, print. An interrupt while the job runs cancels it."""
    with display_for(console_for(sys.stderr)) as display:
        display.note(f"{run.doing}, on {client.url}")
        job = run.post(client)
        if job.webhook_secret is not None:
            display.note(f"its webhook is signed with {job.webhook_secret}; keep it, it is not shown again")
        try:
            job.wait(on_update=lambda job: display.update(job.record))
        except KeyboardInterrupt:
            display.note(f"canceling {job.id}")
            return _cancel(job, run.as_json)
    report = job.report() if job.record.result else None
    if job.status == "succeeded" and run.folder is not None:
        earlier = listed_files(run.folder)
        paths = fetch(job, run.folder)
        remove_leftovers(run.folder, earlier, paths)
    _print_outcome(job, report, run)
    return _exit_code(job)


def _cancel(job: JobHandle, as_json: bool) -> int:
    try:
        job.cancel().wait(timeout=CANCEL_SECONDS)
        message = f"{job.id} is {job.status}."
    except HeadroomError as error:
        message = f"{job.id} could not be canceled ({error.message})"
    if as_json:
        print_json(_told(job) | {"report": None, "output": None, "files": []})
    print_error("interrupted", message)
    return INTERRUPTED


def _told(job: JobHandle) -> dict[str, Any]:
    """What the server told of it, with the secret that it tells only once."""
    if job.webhook_secret is None:
        return job.record.told
    return job.record.told | {"webhook": {**job.record.told["webhook"], "secret": job.webhook_secret}}


def _print_outcome(job: JobHandle, report: dict[str, Any] | None, run: Run) -> None:
    folder = run.folder if job.status == "succeeded" else None
    if run.as_json:
        files = [file.path for file in job.files()] if folder else []
        print_json(_told(job) | {"report": report, "output": str(folder) if folder else None, "files": files})
    elif report is not None:
        show(console_for(sys.stdout), *report_views(job.record, open_report(report), folder))
    if job.error:
        print_error(job.error.code, job.error.message)
    elif job.status == "canceled":
        print_error("canceled", f"{job.id} was canceled by somebody else.")


def _exit_code(job: JobHandle) -> int:
    if job.status == "succeeded":
        return 0
    if job.status == "rejected":
        found = job.record.compressed
        return NOT_WORTH_IT if found and found.rejected_for == "not_worth_it" else REJECTED
    return BAD_INPUT if job.error and job.error.code in BAD_INPUT_CODES else FAILED


def listed_files(folder: Path) -> list[str]:
    """The files of an earlier output in the same folder, by its own list."""
    found: list[str] = []
    for part in ("", *(f"revisions/{path.name}/" for path in folder.glob("revisions/*"))):
        try:
            listed = json.loads((folder / part / "headroom.json").read_bytes())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        own = ["headroom.json"] if part else []  # of the folder itself it is written anew
        found += [f"{part}{name}" for name in (*own, *listed) if isinstance(name, str)]
    return found


def remove_leftovers(folder: Path, earlier: list[str], paths: list[Path]) -> None:
    """Shards of an earlier output that the new one does not have: loaders must not find a mixture."""
    kept = {path.resolve() for path in paths}
    for name in earlier:
        path = (folder / name).resolve()
        if path not in kept and path.is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)
