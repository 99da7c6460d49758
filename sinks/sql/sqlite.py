"""SQLite: one file, embedded, in write-ahead-log mode."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, QueuePool

from tidegauge.pipeline.errors import PermanentError, RetryableError, SinkError
from tidegauge.sinks.sql.database import DamagedError
from tidegauge.sinks.sql.rows import Insert

_PERMANENT = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE}
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SETTINGS = _BROKEN | {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_ERROR,
}
_MOST_ASIDE = 3
_SIZE_PRAGMAS = ("page_count", "freelist_count", "page_size")
_STEPS = 20_000
"""Steps of the virtual machine between two looks at the clock: a millisecond or so."""


class SqliteDatabase:
    """A file, made with its folder by the first that writes, readable by its owner alone."""

    is_embedded = True

    def __init__(self, path: Path, busy_timeout_s: float = 5.0) -> None:
        self.path = path
        self.name = str(path)
        self._busy_timeout_s = busy_timeout_s

    def exists(self) -> bool:
        return self.path.exists()

    def writing_engine(self, answer_timeout_s: float | None = None) -> sa.Engine:
        """Its transactions hold the write lock from their beginning.

        The driver's own transaction control is off: it would commit before DDL, and a migration could stop half way.
        """

        def connect() -> sqlite3.Connection:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            conn = sqlite3.connect(self.path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False)
            _use_wal(conn, self._busy_timeout_s)
            conn.execute("PRAGMA synchronous = NORMAL")
            conn.execute("PRAGMA foreign_keys = OFF")
            conn.execute(f"PRAGMA journal_size_limit = {64 << 20}")
            return conn

        return _engine(connect, "BEGIN IMMEDIATE", NullPool)

    def reading_engine(self, answer_timeout_s: float | None = None) -> sa.Engine:
        def connect() -> sqlite3.Connection:
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            return sqlite3.connect(uri, uri=True, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False)

        return _engine(connect, "BEGIN", QueuePool)

    def writer(self, conn: sa.Connection) -> "SqliteWriter":
        return SqliteWriter(conn)

    def lock_schema(self, conn: sa.Connection) -> None:
        """Nothing to do: the transaction has the write lock."""

    def make_ahead(self, conn: sa.Connection, now_ms: int) -> None:
        """Nothing to do: rows need no partition."""

    def used_bytes(self, conn: sa.Connection, tables: Collection[str]) -> int:
        """Of the whole file: its pages in use. The file itself never shrinks in service: freed pages are used again."""
        pages, free, size = (conn.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in _SIZE_PRAGMAS)
        return int((pages - free) * size)

    @contextlib.contextmanager
    def limit_time(self, conn: sa.Connection, end_s: float) -> Iterator[None]:
        driver = conn.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(lambda: time.monotonic() > end_s, _STEPS)
        try:
            yield
        finally:
            driver.set_progress_handler(None, 0)

    def is_interrupted(self, exc: Exception) -> bool:
        code = getattr(_original(exc), "sqlite_errorcode", None)
        return code is not None and code & 0xFF == sqlite3.SQLITE_INTERRUPT

    def error(self, exc: Exception) -> SinkError | None:
        """Locked, full and failing disks are retried."""
        path, orig = self.path, _original(exc)
        if isinstance(orig, OverflowError | sqlite3.ProgrammingError | sqlite3.InterfaceError | sqlite3.DataError):
            return PermanentError(f"write to {path}: {orig}")
        if isinstance(orig, OSError):
            is_fault = isinstance(orig, PermissionError | FileNotFoundError)
            return RetryableError(f"open {path}: {orig}", is_config_fault=is_fault)
        if not isinstance(orig, sqlite3.Error):
            return None
        code = getattr(orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _PERMANENT:
            return PermanentError(f"write to {path}: {orig}")
        if code in _BROKEN:
            return DamagedError(f"{path} is damaged ({orig})", is_config_fault=True)
        return RetryableError(f"write to {path}: {orig}", is_config_fault=code in _SETTINGS)

    def set_aside(self) -> Path | None:
        """Renames the file and those beside it. It stays once there are three: then the disk is at fault, and it fills up."""
        if len(list(self.path.parent.glob(f"{self.path.name}.damaged-*[0-9Z]"))) >= _MOST_ASIDE:
            return None
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        try:
            for ending in ("-wal", "-shm", ""):
                if (part := Path(f"{self.path}{ending}")).exists():
                    part.replace(f"{aside}{ending}")
        except OSError:
            return None
        return aside


class SqliteWriter:
    """Hands tuples to the driver: a quarter of the CPU of SQLAlchemy's own inserts."""

    def __init__(self, conn: sa.Connection) -> None:
        self._conn = conn
        self._statements: dict[tuple[str, tuple[str, ...]], tuple[str, str]] = {}

    def insert(self, insert: Insert) -> int:
        rows, keys = insert.rows, insert.keys
        if not insert.update and len({row[:keys] for row in rows}) == len(rows):
            # In the order of its key SQLite leaves an eighth of each page free. What then comes between fills it: 2 % less.
            # Not where a key comes twice: of these the first stays.
            rows = rows[::2] + rows[1::2]
        add, select = self._statements.get((insert.table, insert.columns)) or self._prepare(insert)
        if self._conn.exec_driver_sql(add, rows).rowcount == len(rows) or insert.update:
            return 0
        # Through the driver's cursor: SQLAlchemy's way costs 40 us a row, and after an outage a repeat is a whole write.
        cursor = self._conn.connection.cursor()
        conflicts = 0
        for row in rows:
            cursor.execute(select, row[:keys])
            stored = cursor.fetchone()
            if stored is not None and any(a != b and b == b for a, b in zip(stored, row[keys:], strict=True)):
                conflicts += 1
        cursor.close()
        return conflicts

    def _prepare(self, insert: Insert) -> tuple[str, str]:
        table, names = insert.table, [f'"{c}"' for c in insert.columns]
        key, rest = names[: insert.keys], names[insert.keys :]
        # Not ON CONFLICT DO NOTHING: a NaN in a column that must have a value is to be ignored too.
        verb = "INSERT" if insert.update else "INSERT OR IGNORE"
        add = f"{verb} INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        if insert.update:
            add += f" ON CONFLICT ({', '.join(key)}) DO UPDATE {insert.update}"
        select = f"SELECT {', '.join(rest) or 1} FROM {table} WHERE {' AND '.join(f'{c} = ?' for c in key)}"
        self._statements[insert.table, insert.columns] = add, select
        return add, select


def _original(exc: Exception) -> Exception:
    return exc.orig if isinstance(exc, sa.exc.DBAPIError) and isinstance(exc.orig, Exception) else exc


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


def _engine(connect: Callable[[], sqlite3.Connection], begin: str, pool: type[sa.Pool]) -> sa.Engine:
    engine = sa.create_engine("sqlite://", creator=connect, poolclass=pool)

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: sa.Connection) -> None:
        conn.exec_driver_sql(begin)

    return engine
