"""Data folders with any name: each has its own database, and the private broker in it is reached by all who ask it."""

import subprocess
import time
from pathlib import Path

import pytest
from sqlalchemy import make_url

from headroom.local import broker
from service.adapters.migrate import upgrade
from service.adapters.remote.celery_queue import CeleryQueue
from service.adapters.remote.rate_limits import RateLimits
from service.adapters.sql.database import Database
from service.foundation.settings import Settings

NAMES = ["proj%20one", "proj one", "what?a", "what?b", "a#b", "50%", "ünïcode 模型", "a@b:c", "quo'te\"s", "a&b=c;d"]


def test_each_folder_has_a_database_of_its_own(tmp_path: Path) -> None:
    for name in NAMES:
        upgrade(Settings(data_dir=tmp_path / name).database)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    for name in NAMES:
        assert (tmp_path / name / "headroom.db").stat().st_size > 0
        url = Settings(data_dir=tmp_path / name).database
        assert make_url(url).database == str(tmp_path / name / "headroom.db")
        database = Database(url)
        with database.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar() == 0
        database.close()


@pytest.mark.processes
@pytest.mark.parametrize("name", NAMES)
def test_a_broker_in_any_folder_is_reached(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = broker.socket_path(folder)
    command = broker.command(broker.find_program(), path, folder)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 20
            while not broker.answers(path):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            queue = CeleryQueue(broker.broker_url(path))
            queue.ping()
            queue.send("job_1")
            limits = RateLimits("1/hour", broker.broker_url(path))
            assert [limits.take("me").is_allowed, limits.take("me").is_allowed] == [True, False]
            assert RateLimits("1/hour", broker.broker_url(path)).take("me").is_allowed is False  # counted there
            assert (folder / "appendonlydir").is_dir()
        finally:
            server.terminate()
            broker.remove_socket(path, folder)
