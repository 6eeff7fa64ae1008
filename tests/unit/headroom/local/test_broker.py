"""The broker's program, its place and its address."""

from pathlib import Path

import pytest
from kombu.utils.url import parse_url

from headroom.errors import InvalidArgument
from headroom.local import broker


def test_a_short_data_directory_holds_the_socket() -> None:
    assert broker.socket_path(Path("/srv/headroom")) == Path("/srv/headroom/broker.sock")


def test_a_socket_path_that_is_too_long_moves_to_a_private_folder_that_is_removed_again(tmp_path: Path) -> None:
    data_dir = tmp_path / ("deep" * 30)

    path = broker.socket_path(data_dir)

    assert path.parent.stat().st_mode & 0o077 == 0
    assert len(str(path)) <= broker.MAX_SOCKET_PATH_BYTES
    broker.remove_socket(path, data_dir)
    assert not path.parent.exists()


def test_a_socket_in_the_data_directory_is_removed_without_the_directory(tmp_path: Path) -> None:
    (tmp_path / "broker.sock").touch()

    broker.remove_socket(tmp_path / "broker.sock", tmp_path)

    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_the_path_is_first_where_programs_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert broker.find_program() == str(program)

    program.unlink()
    assert Path(broker.find_program()).name == "valkey-server"


def test_no_broker_at_all_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(InvalidArgument, match=r"pip install 'headroom-lm\[serve\]'"):
        broker.find_program()


def test_a_path_with_odd_characters_survives_the_url() -> None:
    assert (
        parse_url(broker.broker_url(Path("/srv/my data/100%/broker.sock")))["virtual_host"]
        == "srv/my data/100%/broker.sock"
    )


def test_nobody_answers_on_a_stale_socket_file(tmp_path: Path) -> None:
    (tmp_path / "broker.sock").touch()
    assert not broker.answers(tmp_path / "broker.sock")
    assert not broker.answers(tmp_path / "missing.sock")
