"""Celery ignores a setting that it does not know, so a slip of the pen would go unseen."""

from celery.app.defaults import NAMESPACES, flatten
from kombu.transport.redis import Channel

from service.adapters.remote.celery_settings import WORKER_PATIENCE_SECONDS, celery_settings

SETTINGS = celery_settings("redis://127.0.0.1:6379/0")


def test_every_setting_is_one_that_celery_knows() -> None:
    assert set(SETTINGS) <= {name for name, _ in flatten(NAMESPACES)}
    assert set(SETTINGS["broker_transport_options"]) <= set(Channel.from_transport_options)


def test_an_idle_worker_does_not_take_its_own_waiting_for_a_broken_connection() -> None:
    assert SETTINGS["broker_transport_options"]["socket_timeout"] == WORKER_PATIENCE_SECONDS > 1.0


def test_each_call_gives_settings_of_its_own() -> None:
    assert celery_settings("redis://a")["broker_transport_options"] is not SETTINGS["broker_transport_options"]
