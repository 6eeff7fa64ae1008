"""The Celery app is made when it is asked for, with the settings of that moment."""

import os
import signal
from types import SimpleNamespace

import pytest
from celery.worker import state

import workers.app
from service.foundation.settings import Settings
from workers.app import build_app, tell_running_tasks


def test_the_app_knows_its_task_and_the_shared_settings() -> None:
    app = build_app(Settings(broker_url="redis://broker.example:6379/3"))

    assert app.conf.broker_url == "redis://broker.example:6379/3"
    assert app.conf.task_acks_late is False
    assert app.conf.worker_concurrency == 1
    app.loader.import_default_modules()
    assert "headroom.run_job" in app.tasks


def test_the_environment_is_read_when_the_app_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADROOM_BROKER_URL", "redis://later.example:6379/0")

    assert workers.app.app.conf.broker_url == "redis://later.example:6379/0"
    with pytest.raises(AttributeError):
        workers.app.__getattr__("other")


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_worker_told_to_stop_tells_its_pool_only_while_a_task_runs(
    is_busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))
    monkeypatch.setattr(state, "active_requests", {"request"} if is_busy else set())
    worker = SimpleNamespace(pool=SimpleNamespace(info={"processes": [4242]}))

    tell_running_tasks(worker)

    assert told == ([(4242, signal.SIGTERM)] if is_busy else [])
