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

from tidegauge.sinks.sql.database import file_of, reading_engine, writing_engine

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


def current(url: str) -> str | None:
    """Revision of the database; None if it has no schema of ours or does not exist. Raises sqlalchemy.exc.DBAPIError."""
    path = file_of(url)
    if not path.exists():
        return None
    engine = reading_engine(path, BUSY_TIMEOUT_S)
    try:
        with engine.connect() as conn:
            return MigrationContext.configure(conn).get_current_revision()
    finally:
        engine.dispose()


def upgrade(url: str) -> None:
    """Migrates to `head()`; no effect if it is there. Raises sqlalchemy.exc.DBAPIError, OSError.

    A database that a newer program has migrated further is left alone.
    """
    engine = writing_engine(file_of(url), BUSY_TIMEOUT_S)
    try:
        with engine.connect() as conn:
            upgrade_connection(conn)
    finally:
        engine.dispose()


def upgrade_connection(conn: sa.Connection) -> None:
    """`upgrade` over an open connection that is in no transaction."""
    revision = MigrationContext.configure(conn).get_current_revision()
    conn.rollback()
    if revision is not None and not is_known(revision):
        return
    config = _config()
    config.attributes["connection"] = conn
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    return config
