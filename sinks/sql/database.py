"""What differs between databases: how to connect, what an error means, how large the store is. Today that is SQLite alone."""

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, QueuePool

from tidegauge.pipeline.errors import ConfigError, PermanentError, RetryableError, SinkError

INSERT_IGNORE = "INSERT OR IGNORE INTO"
"""Leaves a row alone whose key is there already."""

_PERMANENT = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE}
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SETTINGS = _BROKEN | {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_ERROR,
}


def file_of(url: str) -> Path:
    """The file behind `sqlite:////absolute/path`. ConfigError for another database, and for one in memory."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as exc:
        raise ConfigError("sinks.sql.url: expected a database URL such as sqlite:////var/lib/tidegauge/my.db") from exc
    if parsed.get_backend_name() != "sqlite":
        raise ConfigError(f"sinks.sql.url: expected a sqlite: URL, got one of {parsed.get_backend_name()}")
    if parsed.database in (None, "", ":memory:"):
        raise ConfigError("sinks.sql.url: expected a file, got a database in memory, which would hold no history")
    return Path(str(parsed.database))


def writing_engine(path: Path, busy_timeout_s: float) -> sa.Engine:
    """Engine whose transactions hold the write lock from their beginning. The file is made, readable by its owner alone.

    The driver's own transaction control is off: it would commit before DDL, and a migration could stop half way.
    """

    def connect() -> sqlite3.Connection:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        conn = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
        _use_wal(conn, busy_timeout_s)
        conn.execute("PRAGMA synchronous = NORMAL")
        conn.execute("PRAGMA foreign_keys = OFF")
        conn.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        return conn

    return _engine(connect, "BEGIN IMMEDIATE", NullPool)


def _use_wal(conn: sqlite3.Connection, busy_timeout_s: float) -> None:
    """Turns the write-ahead log on. SQLite's own timeout does not hold where two connections turn it on at once."""
    until_s = time.monotonic() + busy_timeout_s
    while True:
        try:
            conn.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until_s:
                conn.close()
                raise
        time.sleep(0.01)


def reading_engine(path: Path, busy_timeout_s: float) -> sa.Engine:
    """Engine that can only read, for any number of threads."""

    def connect() -> sqlite3.Connection:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)

    return _engine(connect, "BEGIN", QueuePool)


def _engine(connect: Callable[[], sqlite3.Connection], begin: str, pool: type[sa.Pool]) -> sa.Engine:
    engine = sa.create_engine("sqlite://", creator=connect, poolclass=pool)

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: sa.Connection) -> None:
        conn.exec_driver_sql(begin)

    return engine


def used_bytes(conn: sa.Connection) -> int:
    """Bytes of the file's pages in use. The file itself never shrinks in service: freed pages are used again."""
    pages, free, size = (conn.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in _SIZE_PRAGMAS)
    return int((pages - free) * size)


_SIZE_PRAGMAS = ("page_count", "freelist_count", "page_size")


def sink_error(exc: Exception, path: Path) -> SinkError | None:
    """What a failure means to the runner; None for an exception that is not the database's.

    Locked, full and failing disks are retried; so is what somebody must mend (a damaged file, missing rights), as a fault of
    the configuration. Values that no column can take are permanent.
    """
    orig = exc.orig if isinstance(exc, sa.exc.DBAPIError) and isinstance(exc.orig, Exception) else exc
    if isinstance(orig, OverflowError | sqlite3.ProgrammingError | sqlite3.InterfaceError | sqlite3.DataError):
        return PermanentError(f"write to {path}: {orig}")
    if isinstance(orig, OSError):
        return RetryableError(f"open {path}: {orig}", is_config_fault=isinstance(orig, PermissionError | FileNotFoundError))
    if not isinstance(orig, sqlite3.Error):
        return None
    code = getattr(orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _PERMANENT:
        return PermanentError(f"write to {path}: {orig}")
    if code in _BROKEN:
        text = f"{path} is damaged ({orig}): restore it, or move it away with its -wal and -shm files to begin a new one"
        return RetryableError(text, is_config_fault=True)
    return RetryableError(f"write to {path}: {orig}", is_config_fault=code in _SETTINGS)
