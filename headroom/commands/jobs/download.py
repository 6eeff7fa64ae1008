"""`headroom download ID`."""

import sys
from pathlib import Path

import click

from headroom.client.job_handle import JobHandle
from headroom.commands.terminal.options import json_option, server_option
from headroom.commands.terminal.output import print_json
from headroom.commands.terminal.server import connect
from headroom.contract.report.report import CompressReport, SteerReport, open_report
from headroom.views.progress import DownloadBar
from headroom.views.rendering import console_for, show
from headroom.views.report_views import places_view


@click.command("download")
@click.argument("job_id", metavar="ID")
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where to.")
@server_option
@json_option
def command(job_id: str, output: Path, server: str, as_json: bool) -> int:
    """Fetch a job's files and check their hashes. After a cut, the same command goes on where it stopped."""
    with connect(server) as client:
        job = client.job(job_id)
        paths = fetch(job, output)
        report = job.report()
    if as_json:
        print_json({"id": job.id, "output": str(output), "files": [str(path) for path in paths]})
        return 0
    opened = open_report(report)
    if isinstance(opened, CompressReport | SteerReport):  # the others have no files
        show(console_for(sys.stdout), places_view(output, opened))
    return 0


def fetch(job: JobHandle, folder: Path) -> list[Path]:
    """Download with a bar on stderr."""
    with DownloadBar(console_for(sys.stderr), sum(file.size for file in job.files())) as bar:
        return job.download(folder, bar)
