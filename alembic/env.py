"""Runs migrations: over the connection that the program hands in, or for developers over `sqlalchemy.url` of alembic.ini."""

from alembic import context
from sqlalchemy import Connection

from tidegauge.sinks.sql.database import open_database
from tidegauge.sinks.sql.tables_rollup import metadata


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,
        compare_type=True,
        # Partitions of PostgreSQL are tables too, and so is whatever else somebody keeps there.
        include_name=lambda name, type_, _: type_ != "table" or name in metadata.tables,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    raise SystemExit("migrations need a database: there is no --sql mode")
if given is not None:
    migrate(given)
else:
    url = context.config.get_main_option("sqlalchemy.url")
    assert url is not None
    with open_database(url, busy_timeout_s=30.0).writing_engine().connect() as opened:
        migrate(opened)
