"""The client against the real API."""

import gzip
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.dependencies import Services
from headroom.client.client import Client
from headroom.contract.answers.job import JobView, Phase
from headroom.contract.posted import Evaluation
from headroom.errors import HeadroomError, InvalidArgument, WaitTimeout
from tests.in_memory.job_store import MemoryJobStore

Soon = Callable[[Callable[[], None]], None]


def test_every_job_is_posted_with_a_key_of_its_own(
    client: Client, corpus: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    reserve = services.store.reserve
    monkeypatch.setattr(services.store, "reserve", lambda request: (keys.append(request.key), reserve(request))[1])
    jobs = {client.compress("acme/tiny", corpus, ratio=0.5).id for _ in range(2)}
    assert (len(jobs), len(set(keys))) == (2, 2)


def test_the_client_is_offered_by_the_package() -> None:
    import headroom

    assert headroom.Client is Client


def test_a_corpus_file_is_uploaded_and_the_job_is_queued(client: Client, services: Services, corpus: Path) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5, max_drift=0.02, labels={"team": "x"})
    assert job.status == "queued"
    assert services.queue.sent == [job.id]  # type: ignore[attr-defined]
    recipe = services.store.get(job.id).recipe
    assert (recipe.ratio, recipe.drift.perplexity, recipe.labels) == (0.5, 0.02, {"team": "x"})
    assert services.corpora.path(job.record.corpus).read_text() == corpus.read_text()


def test_further_texts_are_uploaded_too(client: Client, services: Services, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("other words")
    job = client.compress("acme/tiny", corpus, ratio=0.5, evaluation=[Evaluation("prose", tmp_path / "prose.txt", 0.1)])
    (other,) = job.record.told["evaluation"]
    assert (other["name"], other["drift"]["perplexity"]) == ("prose", 0.1)
    assert services.corpora.path(other["corpus"]).read_text() == "other words"


def test_the_three_forms_of_a_corpus_are_the_same_corpus(client: Client, corpus: Path) -> None:
    uploaded = client.upload_corpus(corpus)
    jobs = [
        client.compress("acme/tiny", str(corpus), ratio=0.5),
        client.compress("acme/tiny", uploaded.id, ratio=0.5),
        client.compress("acme/tiny", text=corpus.read_text(), ratio=0.5),
    ]
    assert {job.record.corpus for job in jobs} == {uploaded.id}


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".jsonl.gz"])
def test_json_lines_are_recognised_by_their_name(client: Client, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus{suffix}"
    lines = b'{"body": "one"}\n{"body": "two"}\n'
    path.write_bytes(gzip.compress(lines) if suffix.endswith(".gz") else lines)
    corpus = client.upload_corpus(path, field="body")
    assert (corpus.format, corpus.field, corpus.size) == ("jsonl", "body", len(lines))
    assert corpus in client.corpora()


def test_exactly_one_corpus_is_needed(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="one corpus"):
        client.compress("acme/tiny")
    with pytest.raises(InvalidArgument, match="one corpus"):
        client.compress("acme/tiny", "corpus_" + "0" * 32, text="words")


def test_a_corpus_file_that_cannot_be_read_is_told_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        client.compress("acme/tiny", tmp_path / "missing.txt")
    with pytest.raises(InvalidArgument, match="directory"):
        client.compress("acme/tiny", tmp_path)


@pytest.mark.parametrize(
    ("model", "settings", "code"),
    [
        ("acme/missing", {}, "model_not_found"),
        ("../etc/passwd", {}, "invalid_request"),
        ("acme/tiny", {"ratio": 0.0}, "invalid_request"),
        ("acme/tiny", {"ratio": 1.0}, "invalid_request"),
        ("acme/tiny", {"ratio": float("nan")}, "invalid_argument"),
        ("acme/tiny", {"ratio": "0.3"}, "invalid_request"),
        ("acme/tiny", {"options": {"nonsense": 1}}, "invalid_request"),
    ],
)
def test_bad_requests_become_typed_errors(
    client: Client, corpus: Path, model: str, settings: dict[str, Any], code: str
) -> None:
    with pytest.raises(HeadroomError) as caught:
        client.compress(model, corpus, **settings)
    assert caught.value.code == code
    assert caught.value.is_bad_input


def test_a_dry_run_makes_no_job(client: Client, corpus: Path) -> None:
    dry_run = client.validate("acme/tiny", corpus, ratio=0.5)
    assert dry_run.head.vocab_size == 32
    assert dry_run.estimate.kept_columns == 8
    assert list(client.jobs()) == []


def test_an_unchanged_job_is_not_sent_again(client: Client, hand: Any, corpus: Path) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5).refresh()
    before = job.record
    assert job.refresh().record is before
    hand.start(job.id)
    assert job.refresh().status == "running"


def test_wait_tells_every_change_and_returns_at_the_end(client: Client, hand: Any, corpus: Path, soon: Soon) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    seen: list[JobView] = []

    def work() -> None:
        hand.start(job.id)
        hand.advance(job.id, Phase.SWEEPING, 0.7)
        while not any(record.phase == "sweeping" for record in seen):
            time.sleep(0.01)
        hand.succeed(job.id)

    soon(work)
    assert job.wait(timeout=20, on_update=lambda job: seen.append(job.record)).status == "succeeded"
    assert seen[-1].is_final
    assert [record.status for record in seen][-2:] == ["running", "succeeded"]
    assert job.result is not None
    assert (job.result.passes, job.result.kept_columns, job.result.checkpoint_bytes_after) == (True, 12, 4500)


def test_wait_gives_up_after_its_time_and_the_job_goes_on(client: Client, services: Services, corpus: Path) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    with pytest.raises(WaitTimeout, match="still queued"):
        job.wait(timeout=0.2)
    assert services.store.get(job.id).status == "queued"


def test_wait_bears_a_server_that_is_away(client: Client, services: Services, hand: Any, corpus: Path) -> None:
    store = services.store
    assert isinstance(store, MemoryJobStore)
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    hand.start(job.id)
    updates = []

    def update(job: Any) -> None:
        updates.append(job.status)
        if len(updates) == 1:
            hand.fail(job.id, "out_of_memory")
            store.away = True

    def come_back() -> None:
        time.sleep(0.5)
        store.away = False

    thread = threading.Thread(target=come_back)
    thread.start()
    assert job.wait(timeout=20, on_update=update).status == "failed"
    thread.join()
    assert updates == ["running", "failed"]
    assert job.error is not None
    assert (job.error.code, job.error.phase) == ("out_of_memory", "fetching")


def test_events_come_in_order_and_end_with_the_job(client: Client, hand: Any, corpus: Path, soon: Soon) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)

    def work() -> None:
        hand.start(job.id)
        for percent in range(120):  # more than one page
            hand.advance(job.id, Phase.ENCODING, percent / 200)
        hand.succeed(job.id)

    soon(work)
    events = list(job.events())
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert events[-1].data["status"] == "succeeded"
    assert [event.number for event in job.events(after=len(events) - 2)] == [len(events) - 1, len(events)]


def test_a_report_is_told_to_be_early_and_then_read(client: Client, hand: Any, corpus: Path) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    with pytest.raises(HeadroomError) as caught:
        job.report()
    assert caught.value.code == "report_not_ready"
    hand.start(job.id)
    hand.reject(job.id)
    assert job.report()["largest_passing_ratio"] == 0.3


def test_published_files_arrive_verified(client: Client, hand: Any, corpus: Path, tmp_path: Path) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    hand.start(job.id)
    hand.succeed(job.id, {"model.safetensors": bytes(3_000_000), "sub/tokenizer 1.json": b"{}"})
    arrived: list[int] = []
    paths = job.download(tmp_path / "out", arrived.append)
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in paths) == sorted(
        ["config.json", "headroom.json", "model.safetensors", "report.json", "sub/tokenizer 1.json"]
    )
    assert (tmp_path / "out/model.safetensors").read_bytes() == bytes(3_000_000)
    assert sum(arrived) == sum(file.size for file in job.files())


def test_a_job_without_files_cannot_be_downloaded(client: Client, hand: Any, corpus: Path, tmp_path: Path) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    hand.start(job.id)
    hand.reject(job.id)
    with pytest.raises(HeadroomError, match="no files"):
        job.refresh().download(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cancel_is_harmless_twice_and_refused_after_the_end(client: Client, hand: Any, corpus: Path) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    assert job.cancel().status == "canceled"
    assert job.cancel().status == "canceled"
    other = client.compress("acme/tiny", corpus, ratio=0.5)
    hand.start(other.id)
    hand.succeed(other.id)
    with pytest.raises(HeadroomError) as caught:
        other.cancel()
    assert caught.value.code == "job_finished"


def test_jobs_are_listed_newest_first_over_pages(client: Client, corpus: Path) -> None:
    uploaded = client.upload_corpus(corpus).id
    ids = [client.compress("acme/tiny", uploaded, ratio=0.5, labels={"n": str(n)}).id for n in range(103)]
    assert [job.id for job in client.jobs()] == ids[::-1]
    assert [job.id for job in client.jobs(limit=2)] == ids[:-3:-1]
    assert [job.id for job in client.jobs(labels={"n": "7"})] == [ids[7]]
    assert list(client.jobs(status="running")) == []
    assert len(list(client.jobs(model="acme/tiny", limit=101))) == 101


def test_a_job_is_found_by_its_id_and_nothing_else(client: Client, corpus: Path) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    assert client.job(job.id).record == job.refresh().record
    with pytest.raises(HeadroomError) as caught:
        client.job("job_missing")
    assert caught.value.code == "job_not_found"
    for name in ("../corpora", "", "a/b", "a?b"):
        with pytest.raises(InvalidArgument):
            client.job(name)


def test_models_of_the_server_are_listed(client: Client) -> None:
    assert [(model.id, model.kind) for model in client.models()] == [("acme/tiny", "local")]
