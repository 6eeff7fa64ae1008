"""What every WebhookStore promises: deliveries made with the change, claimed by one, tried until they are through."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from headroom.contract.answers.job import JobError, Phase, Status
from service.foundation.errors import DeliveryNotFound
from service.ports.jobs import JobStore, WebhookStore
from service.records.job import Job
from service.records.webhooks import PAUSES, Attempt, Delivery, DeliveryStatus, Outcome, after_attempt
from tests.factories import StoppedClock, add_job, add_running_job, claim_job, make_recipe, run_at_once

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVERYTHING = ["job.started", "job.phase", "job.succeeded", "job.failed", "job.rejected", "job.canceled"]


@pytest.fixture
def webhooks(store: JobStore) -> WebhookStore:
    return store.webhooks


def add(store: JobStore, **webhook: object) -> Job:
    body = {"url": "https://example.org/hook", "secret": SECRET} | webhook
    return add_job(store, recipe=make_recipe(webhook=body, labels={"team": "a"}))


def finish(store: JobStore, job: Job) -> None:
    claim_job(store, job.id)
    store.finish(job.id, 1, Status.SUCCEEDED, {"ratio": 0.5}, None)


def tried(delivery: Delivery, outcome: Outcome, clock: StoppedClock) -> Delivery:
    return after_attempt(delivery, Attempt(outcome, 500, "no"), clock(), lambda: 0.0)


def test_an_end_makes_one_delivery_and_no_webhook_makes_none(
    store: JobStore, webhooks: WebhookStore, clock: StoppedClock
) -> None:
    job, plain = add(store), add_running_job(store)
    finish(store, job)
    store.finish(plain.id, 1, Status.SUCCEEDED, None, None)

    (delivery,) = webhooks.deliveries(job.id)
    assert (delivery.number, delivery.type, delivery.status) == (1, "job.succeeded", DeliveryStatus.PENDING)
    assert (delivery.created, delivery.next_attempt, delivery.attempts) == (clock(), clock(), 0)
    told = json.loads(delivery.payload)
    assert told["type"] == "job.succeeded"
    assert told["data"]["id"] == job.id
    assert (told["data"]["status"], told["data"]["result"]) == ("succeeded", {"ratio": 0.5})
    assert told["data"]["labels"] == {"team": "a"}
    assert webhooks.deliveries(plain.id) == []


def test_events_are_told_as_asked_in_order(store: JobStore, webhooks: WebhookStore) -> None:
    job = add(store, events=EVERYTHING)
    claim_job(store, job.id)
    store.report_progress(job.id, 1, Phase.FETCHING, 0.1)
    store.report_progress(job.id, 1, Phase.FETCHING, 0.2)
    store.finish(job.id, 1, Status.FAILED, None, JobError("disk_full", "no room", Phase.FETCHING))
    other = add(store, events=["job.canceled"])
    store.request_cancel(other.id)

    types = [delivery.type for delivery in webhooks.deliveries(job.id)]
    assert types == ["job.started", "job.phase", "job.failed"]
    assert json.loads(webhooks.deliveries(job.id)[-1].payload)["data"]["error"]["code"] == "disk_full"
    assert [delivery.type for delivery in webhooks.deliveries(other.id)] == ["job.canceled"]


def test_the_secret_is_given_to_the_sender_and_to_nobody_else(store: JobStore, webhooks: WebhookStore) -> None:
    job = add(store)
    finish(store, job)

    ((_, webhook),) = webhooks.claim_due(10, 60)
    assert (webhook.url, webhook.secret) == ("https://example.org/hook", SECRET)
    assert SECRET not in repr(webhook)
    assert "secret" not in store.get(job.id).recipe.model_dump(mode="json")["webhook"]


def test_a_due_delivery_is_claimed_by_one_sender(store: JobStore, webhooks: WebhookStore) -> None:
    for _ in range(3):
        finish(store, add(store))

    claimed = [one for portion in run_at_once(4, lambda _: webhooks.claim_due(10, 60)) for one in portion]

    assert len({(delivery.job_id, delivery.number) for delivery, _ in claimed}) == len(claimed) == 3


def test_a_claim_runs_out(store: JobStore, webhooks: WebhookStore, clock: StoppedClock) -> None:
    finish(store, add(store))
    ((first, _),) = webhooks.claim_due(10, 60)
    assert webhooks.claim_due(10, 60) == []

    clock.advance(61)
    ((second, _),) = webhooks.claim_due(10, 60)
    webhooks.record(tried(first, Outcome.DELIVERED, clock))  # the late one no longer counts

    assert second.attempts == 2
    (now,) = webhooks.deliveries(first.job_id)
    assert (now.status, now.attempts) == (DeliveryStatus.PENDING, 2)


def test_what_fails_is_tried_for_a_day_and_then_given_up(
    store: JobStore, webhooks: WebhookStore, clock: StoppedClock
) -> None:
    job, begun = add(store), clock()
    finish(store, job)
    for pause in PAUSES:
        ((delivery, _),) = webhooks.claim_due(10, 60)
        webhooks.record(tried(delivery, Outcome.FAILED, clock))
        assert webhooks.claim_due(10, 60) == []
        clock.advance(pause)
    ((delivery, _),) = webhooks.claim_due(10, 60)
    webhooks.record(tried(delivery, Outcome.FAILED, clock))

    (given_up,) = webhooks.deliveries(job.id)
    assert (given_up.status, given_up.attempts) == (DeliveryStatus.FAILED, len(PAUSES) + 1)
    assert (given_up.response_status, given_up.error, given_up.next_attempt) == (500, "no", None)
    assert clock() - begun >= timedelta(days=1)


def test_gone_is_final_for_everything_of_the_job_until_a_replay(
    store: JobStore, webhooks: WebhookStore, clock: StoppedClock
) -> None:
    job = add(store, events=EVERYTHING)
    claim_job(store, job.id)
    store.report_progress(job.id, 1, Phase.FETCHING, 0.1)
    ((first, _),) = webhooks.claim_due(1, 60)
    webhooks.record(tried(first, Outcome.GONE, clock))
    store.report_progress(job.id, 1, Phase.ENCODING, 0.1)

    assert {one.status for one in webhooks.deliveries(job.id)} == {DeliveryStatus.DISABLED}
    assert len(webhooks.deliveries(job.id)) == 2
    assert webhooks.claim_due(10, 60) == []

    again = webhooks.replay(job.id, 1)
    store.finish(job.id, 1, Status.SUCCEEDED, None, None)
    assert (again.number, again.replay_of, again.message_id, again.payload) == (3, 1, first.message_id, first.payload)
    assert [one.type for one, _ in webhooks.claim_due(10, 60)] == ["job.started", "job.succeeded"]


def test_only_what_is_there_is_replayed(store: JobStore, webhooks: WebhookStore) -> None:
    job = add(store)
    with pytest.raises(DeliveryNotFound):
        webhooks.replay(job.id, 1)
    with pytest.raises(DeliveryNotFound):
        webhooks.replay("job_none", 1)


def test_the_backlog_is_counted(store: JobStore, webhooks: WebhookStore, clock: StoppedClock) -> None:
    assert (store.figures(clock()).pending_deliveries, store.figures(clock()).oldest_delivery) == (0, None)
    finish(store, add(store))
    begun = clock()
    clock.advance(10)
    finish(store, add(store))
    figures = store.figures(clock())
    assert (figures.pending_deliveries, figures.oldest_delivery) == (2, begun)
    for delivery, _ in webhooks.claim_due(10, 60):
        webhooks.record(replace(delivery, status=DeliveryStatus.DELIVERED, next_attempt=None))
    assert store.figures(clock()).pending_deliveries == 0
