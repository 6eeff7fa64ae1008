"""SqlAudit: the audit log over SQLite or PostgreSQL. No method changes an entry; only retention removes old ones."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import delete, insert, select

from service.adapters.sql.database import Database
from service.adapters.sql.rows import is_storable
from service.adapters.sql.tables import audit
from service.records.audit import AuditEntry, AuditFilter, AuditPage

WIDTHS = {column.name: column.type.length for column in audit.columns if hasattr(column.type, "length")}


class SqlAudit:
    """access_ports.AuditLog over the database of the jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, entry: AuditEntry) -> None:
        values = {name: value for name, value in asdict(entry).items() if name != "number"}
        with self._database.writing() as connection:
            connection.execute(insert(audit).values({name: _fit(name, value) for name, value in values.items()}))

    def page(self, where: AuditFilter, limit: int, after: int | None) -> AuditPage:
        query = select(audit).order_by(audit.c.number.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(audit.c.number < after)
        for column, value in ((audit.c.owner, where.owner), (audit.c.action, where.action)):
            if value is not None:
                query = query.where(column == (value if is_storable(value) else ""))
        with self._database.reading() as connection:
            found = [AuditEntry(**row) for row in connection.execute(query).mappings()]
        return AuditPage(found[:limit], has_more=len(found) > limit)

    def forget(self, before: datetime) -> int:
        with self._database.writing() as connection:
            return connection.execute(delete(audit).where(audit.c.time < before)).rowcount


def _fit(name: str, value: object) -> object:
    """What a client sent, such as a path, must not make the entry fail: it is cut, and odd characters are replaced."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "?").encode("utf-8", "replace").decode()[: WIDTHS[name]]
