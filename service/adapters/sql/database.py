"""Connections to the SQL database: how transactions begin on SQLite, and what counts as being away. No queries."""

import json
import logging
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError

from service.foundation.errors import StoreUnavailable

logger = logging.getLogger(__name__)

BUSY_SECONDS = 10.0  # SQLite: how long a writer waits for the writer before it
CONNECT_SECONDS = 5  # PostgreSQL
WRITES = "headroom_writes"  # execution option: this transaction will write


class Database:
    """One engine; `reading` and `writing` are transactions, committed at the end of the block."""

    def __init__(self, url: str | URL, enforce_foreign_keys: bool = True) -> None:
        self.engine = _make_engine(make_url(url), enforce_foreign_keys)
        is_sqlite = self.engine.dialect.name == "sqlite"
        self._writer = self.engine.execution_options(**{WRITES: True})
        # A method that reads twice must see one moment; SQLite in WAL mode does so by itself.
        self._reader = self.engine if is_sqlite else self.engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with _unavailable_is_typed(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with _unavailable_is_typed(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def serialize(connection: Connection, what: str) -> None:
    """Until this transaction ends, no other one that names the same thing comes past here.

    For a look and a write that no row could lock. SQLite has one writer at a time anyhow.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": zlib.crc32(what.encode())})


def _make_engine(url: URL, enforce_foreign_keys: bool) -> Engine:
    strict_json = partial(json.dumps, allow_nan=False)  # NaN is no JSON, and PostgreSQL refuses it
    if url.get_backend_name() == "sqlite":
        # A connection for each thread that may ask, and all are kept: to open one costs more than most queries.
        engine = create_engine(url, json_serializer=strict_json, connect_args={"timeout": BUSY_SECONDS}, pool_size=0)
        _begin_explicitly(engine, enforce_foreign_keys)
        return engine
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return create_engine(
        url,
        json_serializer=strict_json,
        connect_args={"connect_timeout": CONNECT_SECONDS},
        pool_pre_ping=True,
        pool_timeout=CONNECT_SECONDS,
    )


def _begin_explicitly(engine: Engine, enforce_foreign_keys: bool) -> None:
    """Writers take SQLite's write lock at once: a lock taken later, after a read, may fail instead of waiting."""

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # no BEGIN by the driver
        _use_write_ahead_log(connection)
        connection.execute(f"PRAGMA foreign_keys = {'ON' if enforce_foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """SQLite's own timeout does not cover this: of processes that make a new database at once, some are refused."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(0.02)


@contextmanager
def _unavailable_is_typed() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, TimeoutError) as error:
        # For the log only: it names hosts, which the one who asks need not know.
        logger.warning("the database is away: %s", error.orig if isinstance(error, DBAPIError) else error)
        raise StoreUnavailable("the database does not answer; try again in a few seconds") from error
