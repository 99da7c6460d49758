"""Asks a SQLite file: opened to read, with a guard inside SQLite itself that knows what a question may do, and small limits.

What is not listed is refused: the authorizer sees every table, column and function that a statement would touch, before it
runs, also inside views (sqlite.org/c3ref/set_authorizer.html).
"""

import itertools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidegauge.pipeline.sql_query import QueryError, Why
from tidegauge.sinks.sql.query_time import Clock
from tidegauge.sinks.sql.query_worker import Rows

_NAMES = """
    abs avg char coalesce count cume_dist date datetime dense_rank first_value format glob group_concat hex ifnull
    iif instr json json_array json_array_length json_each json_extract json_group_array json_group_object json_object json_patch
    json_quote json_remove json_replace json_set json_tree json_type json_valid julianday lag last_value lead length like
    likelihood likely lower ltrim max min ms nth_value ntile nullif percent_rank printf quote rank replace round row_number
    rtrim sign strftime substr substring sum time total trim typeof unicode unixepoch unlikely upper ->> ->
    acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power radians
    sin sinh sqrt tan tanh trunc
"""
FUNCTIONS = frozenset(_NAMES.split())
"""Without those that read files, load code, tell of the program, or make values out of nothing but a size."""
_TABLE_FUNCTIONS = frozenset({"json_each", "json_tree"})
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 4 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_STEPS = 20_000
"""SQLite's steps between two looks at the clock: a millisecond or so."""
_BUSY_S = 5.0


class SqliteStore:
    def __init__(self, path: str, memory_bytes: int, clock: Clock) -> None:
        self._path = Path(path)
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._conn: sqlite3.Connection | None = None
        self._refused = ""
        """Why the authorizer or a function of ours refused last: SQLite's own message does not tell."""

    def ask(self, sql: str, limit: int, deadline_s: float) -> Rows:
        try:
            self._conn = conn = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S, isolation_level=None
            )
            self._bound(conn)
        except sqlite3.Error as exc:
            raise QueryError(Why.STORE, f"The database {self._path} cannot be opened: {exc}.") from exc
        conn.set_progress_handler(lambda: time.monotonic() > deadline_s, _STEPS)
        try:
            # Python 3.11 says "one statement at a time" by a Warning, later ones by a ProgrammingError
            cursor = conn.execute(sql)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as exc:
            raise self._fault(exc) from exc
        if cursor.description is None:
            raise QueryError(Why.BAD_SQL, "Expected a SELECT, got nothing that has rows.")
        return Rows([column[0] for column in cursor.description], self._rows(cursor, limit))

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()

    def _rows(self, cursor: sqlite3.Cursor, limit: int) -> Iterator[tuple[Any, ...]]:
        try:
            yield from itertools.islice(cursor, limit)
        except sqlite3.Error as exc:
            raise self._fault(exc) from exc

    def _bound(self, conn: sqlite3.Connection) -> None:
        conn.text_factory = lambda data: data.decode(errors="replace")
        for pragma in (
            "query_only = 1",
            "temp_store = 2",
            f"hard_heap_limit = {self._memory_bytes // 2}",
        ):
            conn.execute(f"PRAGMA {pragma}").fetchall()
        tables = conn.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'")
        self._tables = frozenset(name for (name,) in tables) | _TABLE_FUNCTIONS
        for category, limit in _LIMITS.items():
            conn.setlimit(category, limit)
        conn.create_function("ms", -1, self._ms, deterministic=True)
        conn.execute("SELECT count(*) FROM json_each('[]') a, json_tree('[]') b").fetchall()  # they are made at their first use
        conn.set_authorizer(self._allows)

    def _ms(self, *words: str) -> int:
        try:
            return self._clock.ms(*words)
        except ValueError as exc:
            self._refused = str(exc)
            raise

    def _allows(self, action: int, first: str | None, second: str | None, database: str | None, within: str | None) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ:
            if first in self._tables and database in ("main", None):
                return sqlite3.SQLITE_OK
            # A sub-query; or a name in FROM as it was written, of a WITH or of a table, of which no column is read.
            if not first or (database is None and not first.lower().startswith("sqlite_")):
                return sqlite3.SQLITE_OK
            self._refused = f"The table {first} may not be asked"
        elif action == sqlite3.SQLITE_FUNCTION:
            if str(second).lower() in FUNCTIONS:
                return sqlite3.SQLITE_OK
            self._refused = f"The function {second} is not allowed"
        else:
            self._refused = "Only SELECT is allowed, over the tables and views of tidegauge"
        return sqlite3.SQLITE_DENY

    def _fault(self, exc: Exception) -> Exception:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            return TimeoutError()
        if code == sqlite3.SQLITE_NOMEM:
            return MemoryError()
        if code in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_NOTADB,
            sqlite3.SQLITE_IOERR,
        ):
            return QueryError(Why.STORE, f"The database does not answer: {exc}.")
        if self._refused:
            return QueryError(Why.BAD_SQL, f"{self._refused}.")
        if "one statement" in str(exc):
            return QueryError(Why.BAD_SQL, "Expected one statement, got several.")
        return QueryError(Why.BAD_SQL, f"{exc}.")
