"""A real PostgreSQL server of the tests' own, on loopback, in a temporary folder. It ends with the process.

Making a database takes it the better part of a second: tests that only want one without rows share one, emptied.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import OperationalError

from headroom.local import tether
from service.adapters.migrate import upgrade
from service.adapters.sql.database import Database
from service.adapters.sql.tables import metadata
from tests.debian_packages import ensure_installed

START_SECONDS = 60.0
ROOT_RUNS_AS = "postgres"  # the server refuses to run as root
# A test database need not outlive a power cut.
OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "shared_buffers": "32MB",
}


def find_programs() -> Path | None:
    """The folder with initdb and postgres: that of the PATH, else Debian's, installed if need be."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    for _ in range(2):
        versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
        if versions:
            return max(versions, key=lambda folder: float(folder.parent.name))
        if not ensure_installed("postgresql"):
            return None
    return None


def _tether() -> list[str]:
    """What goes before a command, so that it is killed when this process ends, however that ends."""
    if os.geteuid() != 0:
        return [sys.executable, tether.__file__, str(os.getpid())]
    return ["setpriv", "--pdeathsig=KILL", f"--reuid={ROOT_RUNS_AS}", f"--regid={ROOT_RUNS_AS}", "--clear-groups", "--"]


class PostgresqlServer:
    """Started by `with`. `url` is that of an existing database; `create_database` gives a new one."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="headroom-postgresql-"))
        self._shared = ""

    def __enter__(self) -> "PostgresqlServer":
        if os.geteuid() == 0:
            shutil.chown(self._folder, ROOT_RUNS_AS, ROOT_RUNS_AS)
        try:
            self._make_cluster()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "_process"):
            self._process.send_signal(signal.SIGINT)  # at once, whoever is connected
            self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """For SQLAlchemy. The server trusts whoever connects."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """The URL of a new database without any table."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY FILE_COPY")
        return self.url(name)

    def emptied_database(self) -> str:
        """The URL of one database with the present schema and no rows; whoever asks next gets it too, emptied again."""
        if not self._shared:
            self._shared = self.create_database()
            upgrade(self._shared)
        database = Database(self._shared)
        with database.writing() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        database.close()
        return self._shared

    def drop_database(self, url: str) -> None:
        """Whoever is still connected is cut off."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def ask_for_password(self, role: str) -> None:
        """From now on, of this role alone."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self.execute("SELECT pg_reload_conf()")

    def execute(self, statement: str) -> None:
        """Outside of any transaction, in the database that is always there."""
        engine = create_engine(self._driver_url(), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()

    def _make_cluster(self) -> None:
        initdb = [self.programs / "initdb", "--pgdata", self._data, "--username=postgres", "--auth=trust"]
        options = ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        made = subprocess.run([*_tether(), *initdb, *options], cwd=self._folder, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr

    def _start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        options = [f"--{name}={value}" for name, value in OPTIONS.items()]
        server = [str(self.programs / "postgres"), "-D", str(self._data), "-p", str(self.port), "-k", str(self._folder)]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*_tether(), *server, *options],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.execute("SELECT 1")
            except OperationalError:
                has_ended = self._process.poll() is not None
                assert not has_ended, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.05)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _driver_url(self) -> URL:
        return URL.create(
            "postgresql+psycopg", username="postgres", host="127.0.0.1", port=self.port, database="postgres"
        )
