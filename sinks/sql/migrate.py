"""Brings a database to the newest schema, through Alembic, without its command line. Blocking; one call at a time.

Every migration of a call runs in one transaction with the write lock held, the version stamp included: an interruption leaves
the schema as it was, and of two programs that start at once the second finds the work done.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tidegauge.sinks.sql.database import Database, open_database

BUSY_TIMEOUT_S = 30.0


def migrations() -> Path:
    """Folder of the migrations: `tidegauge/migrations`, in a checkout a link to `alembic/`.

    Found from this file, not from the package: `tidegauge` has no `__init__`, and several folders may share that name.
    """
    return Path(__file__).parents[2] / "migrations"


def head() -> str:
    """The newest revision that this program knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def is_known(revision: str) -> bool:
    """False for a revision of a newer program."""
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def current(database: Database | str) -> str | None:
    """Revision of the database; None if it has no schema of ours or does not exist. Raises sqlalchemy.exc.DBAPIError."""
    database = _opened(database)
    if not database.exists():
        return None
    engine = database.reading_engine()
    try:
        with engine.connect() as conn:
            return MigrationContext.configure(conn).get_current_revision()
    finally:
        engine.dispose()


def upgrade(database: Database | str) -> None:
    """Migrates to `head()`; no effect if it is there. Raises sqlalchemy.exc.DBAPIError, OSError.

    A database that a newer program has migrated further is left alone.
    """
    database = _opened(database)
    engine = database.writing_engine()
    try:
        with engine.connect() as conn:
            upgrade_connection(database, conn)
    finally:
        engine.dispose()


def upgrade_connection(database: Database, conn: sa.Connection) -> None:
    """`upgrade` over an open connection that is in no transaction."""
    with conn.begin():
        database.lock_schema(conn)
        revision = MigrationContext.configure(conn).get_current_revision()
        if revision is not None and not is_known(revision):
            return
        config = _config()
        config.attributes["connection"] = conn
        command.upgrade(config, "head")


def _opened(database: Database | str) -> Database:
    return open_database(database, busy_timeout_s=BUSY_TIMEOUT_S) if isinstance(database, str) else database


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    return config
