"""SqlHolds: which owner holds which corpus, over SQLite or PostgreSQL."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Select, delete, func, insert, select

from service.adapters.sql import owner_bytes
from service.adapters.sql.database import Database, serialize
from service.adapters.sql.rows import is_storable
from service.adapters.sql.tables import corpus_holds
from service.ports.jobs import Clock
from service.records.quotas import NO_QUOTAS, Quotas


class SqlHolds:
    """access_ports.CorpusHolds over the database of the jobs."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def hold(self, owner: str, corpus_id: str, size: int, quotas: Quotas = NO_QUOTAS) -> tuple[datetime, bool]:
        with self._database.writing() as connection:
            serialize(connection, corpus_id)
            since = connection.scalar(_since(owner, corpus_id))
            if since is not None:
                return since, False
            if quotas.max_bytes:
                quotas.check_fit(owner_bytes.used(connection, owner), size, "this corpus")
            now = self._clock()
            values = {"owner": owner, "corpus_id": corpus_id, "size": size, "since": now}
            connection.execute(insert(corpus_holds).values(values))
            return now, True

    def since(self, owner: str, corpus_id: str) -> datetime | None:
        if not is_storable(corpus_id):
            return None
        with self._database.reading() as connection:
            return connection.scalar(_since(owner, corpus_id))

    def held(self, owner: str) -> dict[str, datetime]:
        query = select(corpus_holds.c.corpus_id, corpus_holds.c.since).where(corpus_holds.c.owner == owner)
        with self._database.reading() as connection:
            return {corpus_id: since for corpus_id, since in connection.execute(query)}

    def last(self, corpus_id: str) -> datetime | None:
        with self._database.reading() as connection:
            found = select(func.max(corpus_holds.c.since)).where(corpus_holds.c.corpus_id == corpus_id)
            last: datetime | None = connection.scalar(found)
            return last

    def bytes(self, owner: str) -> int:
        query = select(func.sum(corpus_holds.c.size)).where(corpus_holds.c.owner == owner)
        with self._database.reading() as connection:
            return int(connection.scalar(query) or 0)

    def release(self, owner: str | None, corpus_id: str, remove: Callable[[], None]) -> None:
        holds = delete(corpus_holds).where(corpus_holds.c.corpus_id == corpus_id)
        with self._database.writing() as connection:
            serialize(connection, corpus_id)
            connection.execute(holds if owner is None else holds.where(corpus_holds.c.owner == owner))
            others = select(corpus_holds.c.owner).where(corpus_holds.c.corpus_id == corpus_id).limit(1)
            if connection.scalar(others) is None:
                remove()  # before the commit: whoever takes hold afterwards looks whether the text is still there


def _since(owner: str, corpus_id: str) -> Select[datetime]:
    return select(corpus_holds.c.since).where(corpus_holds.c.owner == owner, corpus_holds.c.corpus_id == corpus_id)
