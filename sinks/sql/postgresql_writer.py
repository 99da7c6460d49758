"""Rows into PostgreSQL: COPY into a temporary table, and from there what is not there yet; partitions as they are needed.

A third of the CPU of `executemany` or `unnest` on both sides together; docs/sinks/sql.md has the figures.
"""

from typing import Any

import sqlalchemy as sa

from tidegauge.sinks.sql.partitions import Partitions
from tidegauge.sinks.sql.rows import Insert

_TYPES = """
SELECT a.attname, a.atttypid::int FROM pg_attribute a
WHERE a.attrelid = to_regclass(?) AND a.attnum > 0 AND NOT a.attisdropped
"""
_FLOATS = {700, 701, 1700}
"""Types that hold NaN: real, double precision, numeric."""


class PostgresqlWriter:
    """One connection's temporary tables, and what is known of the tables behind them."""

    def __init__(self, conn: sa.Connection, lock: int) -> None:
        self._conn = conn
        self._partitions = Partitions(conn, lock)
        self._statements: dict[tuple[str, tuple[str, ...]], _Statements] = {}
        self._filled: set[str] = set()
        """Temporary tables with rows of the transaction below."""
        self._transaction: Any = None

    def insert(self, insert: Insert) -> int:
        table, rows = insert.table, insert.rows
        self._partitions.make(table, rows)
        use = self._statements.get((table, insert.columns)) or self._prepare(insert)
        if self._transaction is not self._conn.get_transaction():
            self._transaction = self._conn.get_transaction()
            self._filled.clear()
        cursor: Any = self._conn.connection.cursor()
        try:
            if table in self._filled:
                cursor.execute(f"DELETE FROM pg_temp.{_stage(table)}")
            self._filled.add(table)
            with cursor.copy(use.copy) as copy:
                copy.set_types(use.types)
                write_row = copy.write_row
                for row in rows:
                    write_row(row)
            cursor.execute(use.insert)
            if insert.update or cursor.rowcount == len(rows):
                return 0
            return int(cursor.execute(use.count).fetchone()[0])
        finally:
            cursor.close()

    def _prepare(self, insert: Insert) -> "_Statements":
        table = insert.table
        types = {row[0]: row[1] for row in self._conn.exec_driver_sql(_TYPES, (table,))}
        self._conn.exec_driver_sql(
            f'CREATE TEMPORARY TABLE IF NOT EXISTS {_stage(table)} (LIKE "{table}") ON COMMIT DELETE ROWS'
        )
        use = self._statements[table, insert.columns] = _Statements(insert, [types[c] for c in insert.columns])
        return use


class _Statements:
    """SQL for one table and some of its columns."""

    def __init__(self, insert: Insert, types: list[int]) -> None:
        table, stage = f'"{insert.table}"', f"pg_temp.{_stage(insert.table)}"
        names = [f'"{c}"' for c in insert.columns]
        keys = names[: insert.keys]
        values = [f"nullif({n}, 'NaN')" if type_ in _FLOATS else n for n, type_ in zip(names, types, strict=True)]
        self.types = types
        self.copy = f"COPY {stage} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
        action = f"({', '.join(keys)}) DO UPDATE {insert.update}" if insert.update else "DO NOTHING"
        self.insert = f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM {stage} ON CONFLICT {action}"
        new = [f"nullif(s.{n}, 'NaN')" if type_ in _FLOATS else f"s.{n}" for n, type_ in zip(names, types, strict=True)]
        rest = range(insert.keys, len(names))
        self.count = (
            f"SELECT count(*) FROM {stage} s JOIN {table} t USING ({', '.join(keys)}) "
            f"WHERE ROW({', '.join(new[i] for i in rest)}) IS DISTINCT FROM ROW({', '.join(f't.{names[i]}' for i in rest)})"
        )


def _stage(table: str) -> str:
    return f'"new_{table}"'
