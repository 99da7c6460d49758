"""PostgreSQL's partitions by day of the tables whose key has a time: found, made, dropped.

A partition is made apart and then attached: readers and writers of the table do not wait for that, as they would for
`CREATE TABLE ... PARTITION OF`. A table without partitions (a hypertable of TimescaleDB, or one made by hand) is left alone,
and so is what somebody else made: whatever covers a time is as good as ours.
"""

import datetime
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

DAY_MS = 86_400_000

_FOUND = """
SELECT p.relname, child.relname, pg_get_expr(child.relpartbound, child.oid)
FROM pg_class p LEFT JOIN pg_inherits i ON i.inhparent = p.oid LEFT JOIN pg_class child ON child.oid = i.inhrelid
WHERE p.relkind = 'p' AND p.relnamespace = to_regnamespace(current_schema())
"""
_BOUNDS = re.compile(r"FROM \((?:'(-?\d+)'|MINVALUE)\) TO \((?:'(-?\d+)'|MAXVALUE)\)")
_EVER = 1 << 63


class Partition(NamedTuple):
    name: str
    from_ms: int
    to_ms: int
    """Not in it any more."""


def found(conn: sa.Connection) -> dict[str, list[Partition]]:
    """Partitions of each partitioned table, by time. A default partition covers all times."""
    out: dict[str, list[Partition]] = {}
    for table, name, bound in conn.exec_driver_sql(_FOUND):
        partitions = out.setdefault(table, [])
        if name is not None:
            match = _BOUNDS.search(bound)
            low, high = match.groups() if match else (None, None)
            partitions.append(Partition(name, -_EVER if low is None else int(low), _EVER if high is None else int(high)))
    for partitions in out.values():
        partitions.sort(key=lambda p: (p.from_ms, p.to_ms))
    return out


class Partitions:
    """What one connection knows of them, inside its transactions. Made anew after one that was undone."""

    def __init__(self, conn: sa.Connection, lock: int) -> None:
        self._conn = conn
        self._lock = lock
        self._days: dict[str, set[int]] | None = None
        """Days of each partitioned table that are known to be covered."""
        self._found: dict[str, list[Partition]] = {}

    def make(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Makes those that the rows need, whose first value is the time. Ends with the transaction."""
        if self._days is None:
            self._look()
            assert self._days is not None
        known = self._days.get(table)
        if known is None:
            return
        days = {row[0] // DAY_MS for row in rows}
        if not days <= known:
            self.make_days(table, days - known)

    def make_days(self, table: str, days: Collection[int]) -> None:
        """`days` are numbers of days since 1970, UTC."""
        if self._days is None:
            self._look()
        assert self._days is not None
        if table not in self._days:
            return
        missing = [day for day in sorted(days) if not self._is_covered(table, day)]
        if missing:
            self._conn.exec_driver_sql("SELECT pg_advisory_xact_lock(?)", (self._lock,))
            # Another agent may have made them while this one waited.
            self._look()
            for day in missing:
                if not self._is_covered(table, day):
                    self._make(table, day)
        self._days[table].update(days)

    def _look(self) -> None:
        self._found = found(self._conn)
        known = self._days or {}
        self._days = {table: known.get(table, set()) for table in self._found}

    def _is_covered(self, table: str, day: int) -> bool:
        return any(p.from_ms <= day * DAY_MS and (day + 1) * DAY_MS <= p.to_ms for p in self._found[table])

    def _make(self, table: str, day: int) -> None:
        name = f'"{partition_name(table, day)}"'
        self._conn.exec_driver_sql(f'CREATE TABLE {name} (LIKE "{table}" INCLUDING DEFAULTS INCLUDING CONSTRAINTS)')
        self._conn.exec_driver_sql(
            f'ALTER TABLE "{table}" ATTACH PARTITION {name} FOR VALUES FROM ({day * DAY_MS}) TO ({(day + 1) * DAY_MS})'
        )


def make_ahead(conn: sa.Connection, lock: int, now_ms: int) -> None:
    """Makes tomorrow's partition of each table that has rows of these days, in a transaction of its own.

    So that the first write of a day need not wait for other agents that make the same.
    """
    today = now_ms // DAY_MS
    with conn.begin():
        partitions = Partitions(conn, lock)
        for table, of in found(conn).items():
            if any(p.to_ms >= today * DAY_MS for p in of):
                partitions.make_days(table, [today + 1])


def hypertables(conn: sa.Connection) -> set[str]:
    """Tables that TimescaleDB keeps in chunks; none without the extension."""
    if conn.exec_driver_sql("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").scalar() is None:
        return set()
    sql = "SELECT hypertable_name FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema()"
    return set(conn.exec_driver_sql(sql).scalars())


def drop_chunks(conn: sa.Connection, hypertable: str, before_ms: int) -> None:
    """Drops what a hypertable holds of before a time, as far as whole chunks are."""
    sql = "SELECT drop_chunks(CAST(? AS regclass), older_than => CAST(? AS bigint))"
    conn.exec_driver_sql(sql, (hypertable, before_ms))


def partition_name(table: str, day: int) -> str:
    """`sample_p20261123`; by number where the calendar ends."""
    try:
        return f"{table}_p{datetime.date(1970, 1, 1) + datetime.timedelta(days=day):%Y%m%d}"
    except OverflowError:
        return f"{table}_d{day}"
