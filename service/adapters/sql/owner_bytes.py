"""How many bytes an owner has stored: published files and corpora together. Who adds some is alone in doing so."""

from sqlalchemy import Connection, func, select

from service.adapters.sql.database import serialize
from service.adapters.sql.tables import corpus_holds, jobs


def used(connection: Connection, owner: str) -> int:
    """Until this transaction ends nobody else learns it for the same owner, so that two do not take the same room."""
    serialize(connection, f"bytes of {owner}")
    of_files = connection.scalar(select(func.sum(jobs.c.stored_bytes)).where(jobs.c.owner == owner)) or 0
    of_corpora = connection.scalar(select(func.sum(corpus_holds.c.size)).where(corpus_holds.c.owner == owner)) or 0
    return int(of_files) + int(of_corpora)
