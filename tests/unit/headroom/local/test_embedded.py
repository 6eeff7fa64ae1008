"""What the embedded server checks before it starts anything. Running it is tests/integration's."""

from pathlib import Path

import pytest

from headroom.errors import InvalidArgument
from headroom.local import embedded
from headroom.local.embedded import EmbeddedServer


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
    ],
)
def test_the_url_is_one_that_a_client_on_this_machine_can_use(host: str, url: str, tmp_path: Path) -> None:
    assert EmbeddedServer(tmp_path, None, host, 8000).url == url


def test_a_light_installation_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "NEEDED", ("json", "no_such_module"))

    with pytest.raises(InvalidArgument, match=r"no_such_module not installed; run: pip install 'headroom-lm\[serve\]'"):
        EmbeddedServer(tmp_path / "data", None, port=0).start()

    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()

    with pytest.raises(InvalidArgument, match="data directory"):
        EmbeddedServer(tmp_path / "data", None, port=0).start()


def test_an_address_that_is_not_of_this_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="another --port or --host"):
        EmbeddedServer(tmp_path / "data", None, "192.0.2.1", 0).start()


def test_a_host_that_has_no_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no-such-host"):
        EmbeddedServer(tmp_path / "data", None, "no-such-host.invalid", 8000).start()


def test_stopping_a_server_that_never_started_does_nothing(tmp_path: Path) -> None:
    EmbeddedServer(tmp_path, None).stop()
