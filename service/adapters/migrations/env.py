"""What Alembic runs around the versions. The connection comes from migrate.py, already in a transaction."""

from alembic import context

from service.adapters.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
