"""What differs between databases, behind two objects: a Database, and a Writer for each connection that writes.

SQL in this package is written once, for SQLite and PostgreSQL alike, with `?` for arguments: the engines of PostgreSQL put
their own sign in its place. What one of the two does not know (`min` of two values, `LIMIT -1`) is not used.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from tidegauge.pipeline.errors import ConfigError, RetryableError, SinkError
from tidegauge.sinks.sql.rows import Insert


class DamagedError(RetryableError):
    """What the database holds can be read no more."""


class Writer(Protocol):
    """Puts rows in over one connection. Made anew after a transaction that was undone."""

    def insert(self, insert: Insert) -> int:
        """Stores the gathered rows inside the connection's transaction, and leaves alone those whose keys are there.

        Returns how many of these are there with other values. NaN is stored as no value, and equals it.
        """
        ...


class Database(Protocol):
    """One database. Engines are made without connecting; safe from any thread."""

    name: str
    """What messages call it: a file, or an address without password."""
    is_embedded: bool
    """A file with one writer, which makes and migrates it itself; else a server's, which `db upgrade` migrates."""

    def writing_engine(self, answer_timeout_s: float | None = None) -> sa.Engine:
        """For the one connection of a writer. A server that says nothing for so long is given up; None: it waits for ever."""
        ...

    def reading_engine(self, answer_timeout_s: float | None = None) -> sa.Engine:
        """Its connections can only read, and see one state of the database within a transaction."""
        ...

    def exists(self) -> bool:
        """False if a reader would find no file. True where only an attempt can tell."""
        ...

    def writer(self, conn: sa.Connection) -> Writer: ...

    def lock_schema(self, conn: sa.Connection) -> None:
        """Keeps other migrations out, and writers of the tables that are there, until the end of the transaction."""
        ...

    def make_ahead(self, conn: sa.Connection, now_ms: int) -> None:
        """Makes what rows of tomorrow will need, in a transaction of its own."""
        ...

    def used_bytes(self, conn: sa.Connection, tables: Collection[str]) -> int:
        """Bytes that these tables take, as far as deleting rows would give them back for others."""
        ...

    def limit_time(self, conn: sa.Connection, end_s: float) -> "contextlib.AbstractContextManager[None]":
        """Questions inside are stopped at that time of the monotonic clock; `is_interrupted` knows their error."""
        ...

    def is_interrupted(self, exc: Exception) -> bool: ...

    def error(self, exc: Exception) -> SinkError | None:
        """What a failure means to a sink's runner; None for an exception that is not the database's.

        What passes is retried; so is what somebody must mend (a damaged file, missing rights), as a fault of the
        configuration. Values that no column can take are permanent. DamagedError where a file of ours is beyond use.
        """
        ...

    def set_aside(self) -> Path | None:
        """Takes a damaged file out of the way, when no connection is open. Where it is now; None: it is left where it is."""
        ...


def open_database(url: str, *, busy_timeout_s: float = 5.0, password: str = "", password_file: Path | None = None) -> Database:
    """The database behind a URL; does not connect. ConfigError for a URL that cannot be, or one with a password in it."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as exc:
        raise ConfigError(
            "sinks.sql.url: expected a database URL such as sqlite:////var/lib/tidegauge/my.db "
            "or postgresql+psycopg://user@host/database"
        ) from exc
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        from tidegauge.sinks.sql.sqlite import SqliteDatabase

        if parsed.database in (None, "", ":memory:"):
            raise ConfigError("sinks.sql.url: expected a file, got a database in memory, which would hold no history")
        return SqliteDatabase(Path(str(parsed.database)), busy_timeout_s)
    if kind == "postgresql":
        try:
            from tidegauge.sinks.sql.postgresql import PostgresqlDatabase
        except ModuleNotFoundError as exc:
            raise ConfigError(
                f"sinks.sql.url: PostgreSQL needs the module {exc.name}, which is not installed: install tidegauge[postgresql]"
            ) from exc
        return PostgresqlDatabase(parsed, password, password_file)
    raise ConfigError(f"sinks.sql.url: expected a sqlite: or postgresql: URL, got one of {kind}")


def columns(conn: sa.Connection, tables: Collection[str]) -> Mapping[str, Sequence[str]]:
    """Columns of each of these tables that the database has, in their order."""
    found = sa.inspect(conn).get_multi_columns(filter_names=list(tables))
    return {name: [c["name"] for c in of] for (_, name), of in found.items() if of}


def revision(conn: sa.Connection) -> str | None:
    """Alembic's stamp, read without Alembic; None if there is none. Ends the transaction."""
    has_stamp = sa.inspect(conn).has_table("alembic_version")
    found = conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() if has_stamp else None
    conn.rollback()
    return found
