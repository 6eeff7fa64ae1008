"""One job on a server, as the client has it: its record, what it asks for again, and how it waits."""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Self

from headroom.client.connection import Connection
from headroom.client.downloads import OnBytes, download_files
from headroom.client.event_stream import PATIENCE_SECONDS, follow_job, is_away, is_last
from headroom.contract.answers.job import EventView, JobError, JobView, Summary
from headroom.contract.answers.stored import FileView
from headroom.errors import HeadroomError, WaitTimeout

FIRST_POLL_SECONDS = 0.1
SLOWEST_POLL_SECONDS = 1.0


class JobHandle:
    """A job on a server. Its record is what the server told last; only the methods that say so ask again."""

    def __init__(self, connection: Connection, record: JobView) -> None:
        self.record = record
        self._connection = connection
        self._route = f"/v1/jobs/{record.id}"
        self._etag: str | None = None
        # Signs the deliveries of its webhook, if the server made it: only the answer to the post tells it.
        self.webhook_secret: str | None = (record.told.get("webhook") or {}).get("secret")

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def status(self) -> str:
        return self.record.status

    @property
    def result(self) -> Summary | None:
        """The figures of its kind; a plain mapping where a newer server tells them otherwise."""
        return self.record.result

    @property
    def error(self) -> JobError | None:
        return self.record.error

    def refresh(self) -> Self:
        """Ask the server. An unchanged job costs it a 304."""
        headers = {"If-None-Match": self._etag} if self._etag else {}
        response = self._connection.request("GET", self._route, headers=headers)
        if response.status_code != 304:
            self.record = JobView.read(self._connection.decode(response))
            self._etag = response.headers.get("ETag")
        return self

    def wait(self, timeout: float | None = None, on_update: Callable[["JobHandle"], None] | None = None) -> Self:
        """Return once the job has ended, however it ended. `on_update` is called at first and after each change.

        A server that is away for less than a minute is waited for. WaitTimeout after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        told: JobView | None = None
        for _ in self._updates(deadline):
            if on_update and self.record != told:
                told = self.record
                on_update(self)
            if self.record.is_final:
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(f"{self.id} is still {self.status} after {timeout:g} s; it goes on.")
        return self

    def events(self, after: int = 0) -> Iterator[EventView]:
        """Every event with a number above `after`, as they happen; ends after the job's last one."""
        for message in follow_job(self._connection, f"{self._route}/events", after):
            if message.number is not None:
                after = message.number
                yield EventView.read(message.data)
        for _ in self._polls():
            final = self.record.is_final  # read before the events: the last event is stored with the final status
            for event in self.events_so_far(after):
                after = event.number
                yield event
            if final:
                return

    def events_so_far(self, after: int = 0) -> Iterator[EventView]:
        """The events with a number above `after` that there are now; waits for none."""
        more = True
        while more:
            query = {"after": after, "limit": 100}
            page = self._connection.json("GET", f"{self._route}/events", params=query)
            for item in page["data"]:
                after = item["number"]
                yield EventView.read(item)
            more = page["has_more"]

    def report(self) -> dict[str, Any]:
        """All that was measured. Rejected jobs have one too; before there is one the server says report_not_ready."""
        report: dict[str, Any] = self._connection.json("GET", f"{self._route}/report")
        return report

    def figures(self) -> dict[str, Any]:
        """The plots of the report by name, as plotly's figures: `plotly.graph_objects.Figure(figures["drift"])`."""
        found: dict[str, Any] = self._connection.json("GET", f"{self._route}/figures")
        return found

    def deliveries(self) -> list[dict[str, Any]]:
        """Every message to its webhook, as the server tells it."""
        found: list[dict[str, Any]] = self._connection.json("GET", f"{self._route}/deliveries")["data"]
        return found

    def replay_delivery(self, number: int) -> None:
        """Have one of `deliveries` sent again."""
        self._connection.request("POST", f"{self._route}/deliveries/{number}/replay")

    def files(self) -> list[FileView]:
        return [FileView.read(item) for item in self._connection.json("GET", f"{self._route}/files")["data"]]

    def download(self, folder: str | Path, on_bytes: OnBytes | None = None) -> list[Path]:
        """Fetch every file into `folder`, verified. Call it again after a failure: it goes on where it stopped."""
        files = self.files()
        if not files:
            raise HeadroomError(f"{self.id} is {self.status} and has no files to download.", "file_not_found")
        return download_files(self._connection, f"{self._route}/files", files, Path(folder), on_bytes)

    def cancel(self) -> Self:
        """Ask for the job to stop; it ends as canceled soon after. HeadroomError job_finished if it has ended."""
        self.record = JobView.read(self._connection.json("POST", f"{self._route}/cancel"))
        self._etag = None
        return self

    def delete(self) -> None:
        """Remove it from the server, with its report and files. HeadroomError job_not_finished before it has ended."""
        self._connection.request("DELETE", self._route)

    def _updates(self, deadline: float | None) -> Iterator[None]:
        """Keep the record up to date: as the server tells of changes, or by asking one that does not."""
        is_stale = False
        yield from islice(self._polls(), 1)
        for message in follow_job(self._connection, f"{self._route}/events", 0, deadline):
            if message.number is not None:
                is_stale = True  # the job changed in more than its progress, which is told next
            elif not is_stale:
                self.record = self.record.at(message.data)
                yield
                continue
            if message.number is None or is_last(message):
                yield from islice(self._polls(), 1)
                is_stale = False
        yield from self._polls()

    def _polls(self) -> Iterator[None]:
        """Refresh forever, with growing pauses; bears PATIENCE_SECONDS of a server that is away."""
        pause, away_since = FIRST_POLL_SECONDS, None
        while True:
            try:
                self.refresh()
            except HeadroomError as error:
                away_since = away_since or time.monotonic()
                if not is_away(error) or time.monotonic() - away_since > PATIENCE_SECONDS:
                    raise
            else:
                away_since = None
                yield
            time.sleep(pause)
            pause = min(pause * 1.5, SLOWEST_POLL_SECONDS)
