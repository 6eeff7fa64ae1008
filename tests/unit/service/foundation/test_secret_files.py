"""Secrets come from files, and are shown nowhere."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.foundation.settings import Settings

PASSWORD = "p@ss:w/rd %41"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{PASSWORD}\n")
    return path


def test_a_setting_is_read_from_the_file_that_a_variable_names(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADROOM_HUB_TOKEN_FILE", str(file))
    assert Settings().hub_token == PASSWORD


def test_a_value_from_a_file_is_checked_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("redis-cluster://:hunter2@host")
    monkeypatch.setenv("HEADROOM_BROKER_URL_FILE", str(tmp_path / "url"))
    with pytest.raises(ValidationError, match="Redis Cluster") as raised:
        Settings()
    assert "hunter2" not in str(raised.value)


def test_the_password_of_the_database_is_put_into_its_address(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADROOM_DATABASE_URL", "postgresql://headroom@db:5432/headroom?sslmode=require")
    monkeypatch.setenv("HEADROOM_DATABASE_PASSWORD_FILE", str(file))
    settings = Settings()
    assert settings.database == "postgresql://headroom:p%40ss%3Aw%2Frd %2541@db:5432/headroom?sslmode=require"


@pytest.mark.parametrize("name", ["absent", ".", "binary"])
def test_a_file_that_cannot_be_read_stops_the_process_with_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setenv("HEADROOM_HUB_TOKEN_FILE", str(tmp_path / name))
    with pytest.raises(ValidationError, match=r"HEADROOM_HUB_TOKEN_FILE names .* cannot be read"):
        Settings()


def test_a_secret_given_twice_is_refused_and_not_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADROOM_HUB_TOKEN_FILE", str(file))
    monkeypatch.setenv("HEADROOM_HUB_TOKEN", "hunter2")
    with pytest.raises(ValidationError, match="both set") as raised:
        Settings()
    assert "hunter2" not in str(raised.value)
    assert PASSWORD not in str(raised.value)


def test_no_secret_is_shown_where_settings_are_printed() -> None:
    shown = repr(
        Settings(
            hub_token="hunter2",
            database_url="postgresql://headroom:hunter2@db/headroom",
            database_password="hunter2",
            broker_url="redis://:hunter2@broker",
        )
    )
    assert "hunter2" not in shown
    assert "data_dir" in shown
