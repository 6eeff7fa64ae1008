from pathlib import Path

import pytest

from service.adapters.files.bucket import Bucket
from service.adapters.migrate import upgrade
from service.adapters.settings_check import check


def findings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, tuple[bool, str]]:
    given = {f"HEADROOM_{name}": value for name, value in variables.items()}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return {finding.name.removeprefix("HEADROOM_"): (finding.ok, finding.detail) for finding in check(given)}


def test_a_misspelt_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, DATA_DIRR="x", MAX_ATTEMPTS="many")
    assert found["DATA_DIRR"] == (False, "no setting has this name: compare with docs/settings.md")


def test_a_value_that_cannot_be_read_is_told_and_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, MAX_ATTEMPTS="many", BROKER_URL="redis+cluster://x")
    assert {name: ok for name, (ok, _) in found.items()} == {"MAX_ATTEMPTS": False, "BROKER_URL": False}


def test_parts_that_do_not_answer_are_told_one_by_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = findings(
        monkeypatch,
        DATA_DIR=str(tmp_path / "file/below"),
        MODELS_DIR=str(tmp_path / "absent"),
        DATABASE_URL=f"sqlite:///{tmp_path}/new.db",
        BROKER_URL="redis://127.0.0.1:9/0",
        HUB_ENDPOINT="http://127.0.0.1:9",
    )
    assert {name for name, (ok, _) in found.items() if ok} == {"settings", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert "service.adapters.migrate" in found["DATABASE_URL"][1]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "does not answer"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "http/protobuf only",
        ),
    ],
)
def test_a_collector_that_traces_cannot_reach_is_told(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADROOM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HEADROOM_HUB_ENDPOINT", "")
    found = {finding.name: finding for finding in check(variables)}["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert not found.ok
    assert told in found.detail


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = "postgresql://headroom:hunter2@127.0.0.1:9/headroom"
    found = findings(
        monkeypatch, DATA_DIR=str(tmp_path), DATABASE_URL=url, HUB_ENDPOINT="", BROKER_URL="redis://127.0.0.1:9"
    )
    assert found["DATABASE_URL"][0] is False
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BROKER_URL", "redis://:hunter2@127.0.0.1:port/0"),
        ("BROKER_URL", "carrier-pigeon://:hunter2@127.0.0.1/0"),
        ("BROKER_URL", "redis://:hunter2@127.0.0.1:9/0"),
        ("DATABASE_URL", "postgresql://headroom:hunter2@127.0.0.1:port/headroom"),
        ("DATABASE_URL", "headroom:hunter2@127.0.0.1"),
        ("DATABASE_URL", "nosql://headroom:hunter2@127.0.0.1/headroom"),
    ],
)
def test_an_address_that_makes_no_sense_is_told_without_its_password(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(value)
    found = findings(
        monkeypatch, **{f"{name}_FILE": str(tmp_path / "secret"), "DATA_DIR": str(tmp_path), "HUB_ENDPOINT": ""}
    )
    assert found[name][0] is False
    assert "hunter2" not in str(found)


def test_a_secret_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = findings(monkeypatch, HUB_TOKEN_FILE=str(tmp_path / "absent"))
    assert found.keys() == {"settings"}
    assert "HEADROOM_HUB_TOKEN_FILE names" in found["settings"][1]


def test_an_object_store_is_tried_out(bucket_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = findings(monkeypatch, DATA_DIR=str(tmp_path), HUB_ENDPOINT="", STORAGE_URL=bucket_url)
    assert found["STORAGE_URL"] == (True, f"{bucket_url} can be read and written")
    assert list(Bucket(bucket_url).entries("")) == []

    found = findings(monkeypatch, DATA_DIR=str(tmp_path), HUB_ENDPOINT="", STORAGE_URL="s3://no-such-bucket")
    assert found["STORAGE_URL"][0] is False
    assert "no such bucket" in found["STORAGE_URL"][1]


@pytest.mark.parametrize("url", ["bucket", "file:///tmp", "s3://", "s3://key:secret@bucket", "https://host/bucket"])
def test_only_buckets_are_addresses_of_an_object_store(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert findings(monkeypatch, STORAGE_URL=url)["STORAGE_URL"][0] is False


def test_what_works_is_said_to_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path}/headroom.db")
    found = findings(monkeypatch, DATA_DIR=str(tmp_path), HUB_ENDPOINT="")
    assert {name for name, (ok, _) in found.items() if ok} >= {"DATA_DIR", "MODELS_DIR", "DATABASE_URL", "HUB_ENDPOINT"}
