from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient

from api.main import build_app, main
from api.requests.loopback import is_loopback
from service.adapters.migrate import upgrade
from service.foundation.settings import Settings


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_the_open_server_refuses_to_listen_to_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda *_: pytest.fail("it listens"))
    monkeypatch.setenv("HEADROOM_AUTH", "open")
    with pytest.raises(SystemExit, match="headroom keys create"):
        main(["--host", "0.0.0.0"])


@pytest.mark.parametrize(
    ("auth", "host", "status"),
    [
        ("auto", "127.0.0.1", 200),
        ("auto", "0.0.0.0", 401),
        ("auto", "example.org", 401),
        ("keys", "127.0.0.1", 401),
        ("open", "::1", 200),
    ],
)
def test_only_on_loopback_nobody_is_asked_for_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, auth: str, host: str, status: int
) -> None:
    served: list[uvicorn.Config] = []

    def serve(server: uvicorn.Server) -> None:
        served.append(server.config)
        server.started = True

    monkeypatch.setattr("uvicorn.Server.run", serve)
    monkeypatch.setenv("HEADROOM_AUTH", auth)
    monkeypatch.setenv("HEADROOM_DATA_DIR", str(tmp_path))
    upgrade(f"sqlite:///{tmp_path}/headroom.db")
    main(["--host", host])
    (config,) = served
    assert config.host == host
    with TestClient(config.app, base_url="http://localhost") as client:  # type: ignore[arg-type]
        assert client.get("/v1/jobs").status_code == status
        assert client.get("/livez").status_code == 200


def test_a_setting_that_is_not_valid_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADROOM_BROKER_URL", "redis-cluster://x")
    with pytest.raises(SystemExit, match="Redis Cluster"):
        main([])


def test_the_wired_application_answers_without_its_broker(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:9/0", hub_endpoint="")
    upgrade(settings.database)
    with TestClient(build_app(settings), base_url="http://localhost") as client:
        assert client.get("/v1/jobs").json() == {"data": [], "has_more": False}
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"]["ok"]
        assert not ready.json()["checks"]["broker"]["ok"]


def test_an_empty_database_is_a_503_that_says_what_to_run(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:9/0", hub_endpoint="")
    with TestClient(build_app(settings), base_url="http://localhost") as client:
        assert "service.adapters.migrate" in client.get("/readyz").json()["checks"]["database"]["detail"]
