"""A job is declared once: what the server writes the client reads, and a newer server's words are borne."""

from typing import Any

import pytest

from headroom.contract.answers.job import EventView, JobView, Phase, Status
from headroom.contract.answers.results import AnalyzeResult, CompressResult
from headroom.errors import HeadroomError
from service.reports.summaries import summarize
from tests.factories import job_told
from tests.reports import compress_report


def result_told(**fields: Any) -> dict[str, Any]:
    return summarize(compress_report()).model_dump(mode="json") | fields


def test_what_the_server_tells_of_a_job_is_what_the_client_reads() -> None:
    told = job_told(result=result_told(), phase="slicing", labels={"team": "search"})
    view = JobView.read(told)
    assert view.told == told
    assert view.model_dump(mode="json") == told
    assert view.phase is Phase.SLICING
    assert view.compressed is not None
    assert view.compressed.kept_columns == told["result"]["kept_columns"]


def test_a_result_is_of_the_kind_of_its_job() -> None:
    figures = dict.fromkeys(AnalyzeResult.model_fields, 0.5)
    view = JobView.read(job_told(kind="analyze", result=figures))
    assert isinstance(view.result, AnalyzeResult)
    assert view.compressed is None


@pytest.mark.parametrize("fields", [{"kind": "distill"}, {"kind": "analyze"}])
def test_a_result_that_this_version_does_not_know_stays_as_it_came(fields: dict[str, Any]) -> None:
    view = JobView.read(job_told(result={"perplexity_after": 2.0, "moonlight": 1}) | fields)
    assert view.result == {"perplexity_after": 2.0, "moonlight": 1}


def test_words_and_fields_of_a_newer_server_are_borne() -> None:
    told = job_told(status="dreaming", phase="polishing", moonlight=1, result=result_told(moonlight=2))
    told |= {"model": {"id": "acme/tiny", "moonlight": 3}, "links": told["links"] | {"moonlight": 4}}
    told["error"] = {"code": "odd", "message": "It is odd.", "phase": "polishing", "moonlight": 5}
    started = {"attempt": 1, "worker": "w", "started": "2026-01-31T12:00:00Z", "moonlight": 6}
    view = JobView.read(told | {"attempts": [started]})
    assert (view.model.id, view.error and view.error.phase, len(view.attempts)) == ("acme/tiny", "polishing", 1)
    assert (view.status, view.phase, view.is_final) == ("dreaming", "polishing", False)
    assert isinstance(view.result, CompressResult)
    assert view.told["moonlight"] == 1


def test_progress_moves_a_job_on_unless_it_is_older() -> None:
    view = JobView.read(job_told(status="running", version=5))
    assert view.at({"progress": 0.5, "version": 6}).progress == 0.5
    assert view.at({"progress": 0.5, "version": 4}) is view
    assert view.at({"status": "succeeded", "version": 6}).status is Status.SUCCEEDED


@pytest.mark.parametrize("name", ["id", "status", "attempts"])
def test_what_is_no_job_is_told_in_a_sentence(name: str) -> None:
    told = {key: value for key, value in job_told().items() if key != name}
    with pytest.raises(HeadroomError, match=rf"cannot be read \({name}: .*newer headroom"):
        JobView.read(told)


def event_told(**fields: Any) -> dict[str, Any]:
    loss = {"operation": "sweep", "shard": 3, "shards": 8, "worker": "host:7", "why": "lost", "code": None}
    loss["message"] = "its process was killed by SIGKILL"
    return {"number": 4, "time": "2026-01-31T12:00:00Z", "type": "shard", "data": loss} | fields


def test_a_lost_shard_is_read_from_the_history_and_said_in_a_sentence() -> None:
    loss = EventView.read(event_told()).shard_loss
    assert str(loss) == "shard 3 of 8 (sweep) lost at host:7: its process was killed by SIGKILL"
    assert EventView.read(event_told(type="status", data={"status": "running"})).shard_loss is None


def test_losses_and_events_of_a_newer_server_are_borne() -> None:
    newer = event_told()["data"] | {"why": "melted", "moonlight": 1}
    loss = EventView.read(event_told(data=newer)).shard_loss
    assert loss is not None
    assert loss.why == "melted"
    other = EventView.read(event_told(data={"shard": "three"}))
    assert (other.shard_loss, other.data) == (None, {"shard": "three"})
    assert EventView.read(event_told(type="moonrise", data={"at": 1})).data == {"at": 1}
