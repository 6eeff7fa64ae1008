"""SqlKeys: keys and browser sessions over SQLite or PostgreSQL."""

from datetime import datetime

from sqlalchemy import RowMapping, delete, insert, select, update

from service.adapters.sql.database import Database
from service.adapters.sql.tables import keys, sessions
from service.foundation.errors import KeyNotFound
from service.ports.jobs import Clock
from service.records.callers import Key, Scope


class SqlKeys:
    """access_ports.KeyStore over the database of the jobs."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add(self, key: Key, digest: str) -> None:
        values = {name: getattr(key, name) for name in KEY_FIELDS} | {"scopes": sorted(key.scopes), "digest": digest}
        with self._database.writing() as connection:
            connection.execute(insert(keys).values(values))

    def find(self, key_id: str) -> tuple[Key, str] | None:
        with self._database.reading() as connection:
            row = connection.execute(select(keys).where(keys.c.id == key_id)).mappings().one_or_none()
        return (_key_of(row), row["digest"]) if row else None

    def all(self) -> list[Key]:
        with self._database.reading() as connection:
            rows = connection.execute(select(keys).order_by(keys.c.created.desc(), keys.c.id)).mappings()
            return [_key_of(row) for row in rows]

    def revoke(self, key_id: str) -> Key:
        with self._database.writing() as connection:
            unrevoked = update(keys).where(keys.c.id == key_id, keys.c.revoked.is_(None))
            connection.execute(unrevoked.values(revoked=self._clock()))
            row = connection.execute(select(keys).where(keys.c.id == key_id)).mappings().one_or_none()
        if row is None:
            raise KeyNotFound(f"there is no key {key_id!r}; `headroom keys list` shows those that are there")
        return _key_of(row)

    def note_use(self, key_id: str, time: datetime) -> None:
        with self._database.writing() as connection:
            connection.execute(update(keys).where(keys.c.id == key_id).values(last_used=time))

    def add_session(self, digest: str, key_id: str, expires: datetime) -> None:
        with self._database.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires <= self._clock()))
            connection.execute(insert(sessions).values(digest=digest, key_id=key_id, expires=expires))

    def find_session(self, digest: str) -> tuple[Key, datetime] | None:
        opened = select(keys, sessions.c.expires.label("session_expires")).join(sessions)
        with self._database.reading() as connection:
            row = connection.execute(opened.where(sessions.c.digest == digest)).mappings().one_or_none()
        return (_key_of(row), row["session_expires"]) if row else None

    def remove_session(self, digest: str) -> None:
        with self._database.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.digest == digest))


KEY_FIELDS = ("id", "name", "owner", "created", "expires", "revoked", "last_used")


def _key_of(row: RowMapping) -> Key:
    return Key(**{name: row[name] for name in KEY_FIELDS}, scopes=frozenset(map(Scope, row["scopes"])))
