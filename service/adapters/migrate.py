"""Bring the database to the present schema: `python -m service.adapters.migrate`. Needs no alembic.ini.

Safe when several processes start at once: each waits for the lock, and finds the work done. There is no way down;
what goes back is a backup.
"""

import logging
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, make_url, text

from service.adapters.sql.database import Database
from service.adapters.sql.tables import REVISION, read_revision
from service.foundation.errors import StoreUnavailable
from service.foundation.logs import configure_logging
from service.foundation.settings import Settings

logger = logging.getLogger(__name__)

POSTGRESQL_LOCK = 0x48656164_726F6F6D  # "Headroom"; any number that nobody else takes


def upgrade(url: str, revision: str = "head") -> None:
    """Run the missing migrations, up to `revision`, in one transaction; creates the folder of a SQLite file."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    database = Database(parsed, enforce_foreign_keys=False)  # SQLite rebuilds tables to change them
    try:
        with database.writing() as connection:  # on SQLite this is the lock
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": POSTGRESQL_LOCK})
            config = Config()
            config.set_main_option("script_location", "service.adapters:migrations")
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        database.close()


def current_is_latest(engine: Engine) -> bool:
    """Whether the database has exactly the schema this code was written for."""
    with engine.connect() as connection:
        return read_revision(connection) == REVISION


def main() -> None:
    settings = Settings()
    configure_logging(settings.log_format)
    url = settings.database
    try:
        upgrade(url)
    except StoreUnavailable as error:
        sys.exit(error.message)
    logger.info("the schema of %s is %s", make_url(url).render_as_string(hide_password=True), REVISION)


if __name__ == "__main__":
    main()
