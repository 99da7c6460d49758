"""Makes roll-ups: of marked 5 minutes from raw rows, of marked hours from their 5 minutes. One thread: the sink's runner.

A pass makes one bucket of all containers that are marked for it, in slices: each a few milliseconds of reading, computing or
writing, and a transaction where it touches the database, so that the writer never waits for a whole pass. A mark goes in the
transaction that stores what was made for it, and only if it is still as it was when the pass began. A pass that is lost, with
the connection or the program, has changed nothing and is begun again.

Hours are made when the marks of all 5 minutes up to their end are gone.
"""

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa

from tidegauge.pipeline.history import Span
from tidegauge.pipeline.rates import FILESYSTEM_SILENCE_MS, table_silence_ms
from tidegauge.sinks.sql.database import Database
from tidegauge.sinks.sql.rollup_marks import FINAL_AFTER_MS, MARK, Marks
from tidegauge.sinks.sql.rollup_rows import Row, Series, merged, shape_of
from tidegauge.sinks.sql.rows import Columns
from tidegauge.sinks.sql.tables_rollup import FIVE_MINUTES_MS, HOUR_MS, RolledTable, rolled_tables

_LOG = logging.getLogger(__name__)
BUSY_S = 0.1
"""Between two calls while there is something to make: a call of 25 ms, so a fifth of the writer's time at most."""
SLICE_ROWS = 2000
"""Rows of a raw table that are read at once; up to ten times as many are passed over."""
_SERIES = 32
"""Buckets that are computed, or stored, at once."""
_HELD_ROWS = 16_000
"""Rows in memory before they are reduced: some 16 MiB."""
_FEW = 300
"""Up to so many containers are named in a statement; of more, all rows are read."""
_LEADER = 0x7469_6465
"""PostgreSQL's lock of the one agent that makes roll-ups for all that share the database, until it disconnects."""

_OLDEST = "SELECT min(ts_ms) FROM rollup_dirty WHERE width_ms = ?"
_MARKS = "SELECT container, marks FROM rollup_dirty WHERE width_ms = ? AND ts_ms = ?"
_UNMARK = "DELETE FROM rollup_dirty WHERE width_ms = ? AND ts_ms = ? AND container = ? AND marks = ?"
_DELETED = "SELECT before_ms FROM rollup_deleted WHERE width_ms = ?"
_GAPS = "SELECT container, from_ms, to_ms FROM gap WHERE source = ? AND to_ms > ? AND from_ms < ?"

_FAULTS = (ArithmeticError, TypeError, ValueError)
"""What a value can do that no column should hold (text, a float without end): its series is left out, all others are made."""

_Key: TypeAlias = tuple[Any, ...]
"""(container,) or (container, instance)."""


class _Known(NamedTuple):
    """What is known of a container over a bucket."""

    silence_ms: int
    gaps: Sequence[Span]


class Rollup:
    """Of one connection. `marks` are those of the same sink, which tell how far the rows have come."""

    def __init__(self, conn: sa.Connection, database: Database, columns: Columns) -> None:
        self.conn = conn
        self.is_embedded = database.is_embedded
        self._tables = rolled_tables(columns)
        self.is_leader = self.is_embedded
        """False if another agent makes the roll-ups of this database."""
        self._pass: Iterator[None] | None = None

    def run(self, now_ms: int, marks: Marks | None, is_over: Callable[[], bool]) -> bool:
        """Slices until all that is due is made (True) or `is_over` says so (False); at least one.

        While rows come in, a bucket is due when they have passed it: after an outage they are hours behind the clock. Raises
        sqlalchemy.exc.DBAPIError.
        """
        passed_ms = now_ms
        if marks is not None and marks.has_written:
            passed_ms = min(now_ms, marks.newest_ms)
            marks.has_written = False
        while True:
            try:
                if self._pass is None:
                    self._pass = self._next_pass(passed_ms)
                    if self._pass is None:
                        return True
                next(self._pass)
            except StopIteration:
                self._pass = None
            except BaseException:
                self._pass = None
                raise
            if is_over():
                return False

    def _next_pass(self, passed_ms: int) -> Iterator[None] | None:
        with self.conn.begin():
            if not self.is_leader:
                self.is_leader = self.conn.exec_driver_sql("SELECT pg_try_advisory_lock(?)", (_LEADER,)).scalar_one()
                if not self.is_leader:
                    return None
            five, hour = (self.conn.exec_driver_sql(_OLDEST, (w,)).scalar() for w in (FIVE_MINUTES_MS, HOUR_MS))
            if hour is not None and hour + HOUR_MS <= passed_ms and (five is None or hour + HOUR_MS <= five):
                return self._hour(hour, self._marks(HOUR_MS, hour), self._deleted_ms(FIVE_MINUTES_MS))
            if five is not None and five + FIVE_MINUTES_MS + FINAL_AFTER_MS <= passed_ms:
                return self._five_minutes(five, self._marks(FIVE_MINUTES_MS, five), self._deleted_ms(0))
        return None

    def _marks(self, width_ms: int, start_ms: int) -> dict[int, int]:
        found = self.conn.exec_driver_sql(_MARKS, (width_ms, start_ms)).all()
        return {row[0]: row[1] for row in found}

    def _deleted_ms(self, width_ms: int) -> int | None:
        return self.conn.exec_driver_sql(_DELETED, (width_ms,)).scalar()

    # 5 minutes, of raw rows.

    def _five_minutes(self, start_ms: int, marks: Mapping[int, int], deleted_ms: int | None) -> Iterator[None]:
        end_ms = start_ms + FIVE_MINUTES_MS
        with self.conn.begin():
            known = self._known(start_ms, end_ms, marks)
        most_ms = max((FILESYSTEM_SILENCE_MS, *(k.silence_ms for k in known.values())))
        if not known or (deleted_ms is not None and start_ms - 2 * most_ms < deleted_ms):
            # Raw rows were deleted since it was made: what stands there knows more than can be told now.
            yield from self._forget(FIVE_MINUTES_MS, start_ms, marks)
            return
        yield
        made: list[dict[int, list[tuple[Any, ...]]]] = []
        for table in self._tables:
            rows: dict[int, list[tuple[Any, ...]]] = {}
            yield from self._make(table, start_ms, end_ms, known, most_ms, rows)
            made.append(rows)
        yield from self._store(FIVE_MINUTES_MS, start_ms, marks, made)

    def _known(self, start_ms: int, end_ms: int, ids: Collection[int]) -> dict[int, _Known]:
        named = _named("container", ids)
        metadata = self.rows(
            f"SELECT container, valid_from_ms, max_interval_s, base_interval_s FROM container_metadata WHERE {named} "
            "ORDER BY container, valid_from_ms"
        )
        silences: dict[int, int] = {}
        for id_, valid_from_ms, max_s, base_s in metadata:
            if id_ not in silences or valid_from_ms < end_ms:
                silences[id_] = round(1000 * (max_s + base_s))
        sources: dict[str, list[int]] = {}
        for id_, source in self.rows(f"SELECT id, source FROM container WHERE {_named('id', ids)}"):
            sources.setdefault(source, []).append(id_)
        out: dict[int, _Known] = {}
        for source, own in sources.items():
            most_ms = max((FILESYSTEM_SILENCE_MS, *(silences.get(id_, 0) for id_ in own)))
            span = (source, start_ms - 2 * most_ms, end_ms + most_ms)
            gaps = self.conn.exec_driver_sql(_GAPS, span).all()
            of_all = [(g[1], g[2]) for g in gaps if g[0] is None]
            of_one: dict[int, list[Span]] = {}
            for id_, from_ms, to_ms in gaps:
                if id_ is not None:
                    of_one.setdefault(id_, []).append((from_ms, to_ms))
            for id_ in own:
                if id_ in silences and id_ in ids:
                    out[id_] = _Known(silences[id_], [*of_all, *of_one.get(id_, ())])
        return out

    def _make(
        self,
        table: RolledTable,
        start_ms: int,
        end_ms: int,
        known: Mapping[int, _Known],
        most_ms: int,
        made: dict[int, list[tuple[Any, ...]]],
    ) -> Iterator[None]:
        """Fills in the roll-up rows of a table, key first, by container."""
        third = "0" if table.label is None else table.label
        third = "is_closing" if table.table == "sample" else third
        names = ", ".join(f'"{c.metric.name}"' for c in table.columns)
        read = _Reader(self, table, f"SELECT ts_ms, container, {third}, {names} FROM {table.raw} WHERE ", known)
        if read.is_empty(start_ms - most_ms, end_ms):
            return
        shape = shape_of(table)
        width = 2 if table.label is not None else 1
        series: dict[_Key, Series | None] = {}
        waiting: dict[_Key, list[Row]] = {}
        held = 0

        def take(rows: Iterable[Row]) -> int:
            count = 0
            for row in rows:
                if row[1] in known:
                    waiting.setdefault((row[1], row[2])[:width], []).append(row)
                    count += 1
            return count

        def reduce() -> Iterator[None]:
            for done, (key, rows) in enumerate(waiting.items(), 1):
                if key not in series:
                    silence_ms, gaps = known[key[0]]
                    series[key] = Series(shape, start_ms, end_ms, table_silence_ms(silence_ms, table.table), gaps)
                if (own := series[key]) is not None:
                    try:
                        own.feed(rows)
                    except _FAULTS as exc:
                        series[key] = None
                        _complain(table, FIVE_MINUTES_MS, start_ms, key, exc)
                if done % _SERIES == 0:
                    yield
            waiting.clear()
            yield

        for page in itertools.chain(
            read.in_force(start_ms, most_ms), read.pages(start_ms, end_ms), read.following(end_ms, most_ms)
        ):
            held += take(page)
            yield
            if held >= _HELD_ROWS:
                yield from reduce()
                held = 0
        yield from reduce()
        for done, (key, own) in enumerate(series.items(), 1):
            if own is not None and (values := own.values()) is not None:
                made.setdefault(key[0], []).append((key[0], start_ms, *key[1:], *values))
            if done % _SERIES == 0:
                yield

    # Hours, of 5 minutes.

    def _hour(self, start_ms: int, marks: Mapping[int, int], deleted_ms: int | None) -> Iterator[None]:
        if deleted_ms is not None and start_ms < deleted_ms:
            yield from self._forget(HOUR_MS, start_ms, marks)
            return
        ids = sorted(marks)
        for first in range(0, len(ids), _SERIES):
            some = {id_: marks[id_] for id_ in ids[first : first + _SERIES]}
            made: list[dict[int, list[tuple[Any, ...]]]] = []
            for table in self._tables:
                rows: dict[int, list[tuple[Any, ...]]] = {}
                with self.conn.begin():
                    found = self.rows(self._parts_of(table, start_ms, some))
                if table.table == "sample":
                    yield
                width = len(table.key)
                for key, parts in itertools.groupby(found, key=lambda row: (row[0], *row[2:width])):
                    try:
                        values = merged(table, [row[width:] for row in parts])
                    except _FAULTS as exc:
                        _complain(table, HOUR_MS, start_ms, key, exc)
                        continue
                    rows.setdefault(key[0], []).append((key[0], start_ms, *key[1:], *values))
                made.append(rows)
            yield
            yield from self._store(HOUR_MS, start_ms, some, made)

    def _parts_of(self, table: RolledTable, start_ms: int, ids: Collection[int]) -> str:
        order = ", ".join(("container", *table.key[2:], "ts_ms"))
        return (
            f"SELECT {', '.join(_quoted((*table.key, *table.value_names)))} FROM {table.name(FIVE_MINUTES_MS)} "
            f"WHERE {_named('container', ids)} AND ts_ms >= {start_ms} AND ts_ms < {start_ms + HOUR_MS} ORDER BY {order}"
        )

    # Both.

    def _store(
        self,
        width_ms: int,
        start_ms: int,
        marks: Mapping[int, int],
        made: Sequence[Mapping[int, Sequence[tuple[Any, ...]]]],
    ) -> Iterator[None]:
        """Puts new rows in the place of the old ones and takes the marks away, some containers a transaction."""
        ids = sorted(marks)
        for first in range(0, len(ids), _SERIES):
            some = ids[first : first + _SERIES]
            with self.conn.begin():
                for table, rows in zip(self._tables, made, strict=True):
                    name = table.name(width_ms)
                    self.conn.exec_driver_sql(f"DELETE FROM {name} WHERE {_named('container', some)} AND ts_ms = {start_ms}")
                    if new := [row for id_ in some for row in rows.get(id_, ())]:
                        columns = (*table.key, *table.value_names)
                        sql = f"INSERT INTO {name} ({', '.join(_quoted(columns))}) VALUES ({', '.join('?' * len(columns))})"
                        self.conn.exec_driver_sql(sql, new)
                if width_ms == FIVE_MINUTES_MS:
                    hour_ms = start_ms // HOUR_MS * HOUR_MS
                    self.conn.exec_driver_sql(MARK, [(HOUR_MS, hour_ms, id_) for id_ in some])
                self.conn.exec_driver_sql(_UNMARK, [(width_ms, start_ms, id_, marks[id_]) for id_ in some])
            yield

    def _forget(self, width_ms: int, start_ms: int, marks: Mapping[int, int]) -> Iterator[None]:
        """Takes marks away without making anything."""
        with self.conn.begin():
            self.conn.exec_driver_sql(_UNMARK, [(width_ms, start_ms, id_, count) for id_, count in marks.items()])
        yield

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Through the driver's cursor: SQLAlchemy's rows cost as much again as reading them."""
        cursor = self.conn.connection.cursor()
        try:
            cursor.execute(sql)
            return list(cursor.fetchall())
        finally:
            cursor.close()


class _Reader:
    """Raw rows of a table that bear on a bucket, by key in the order of time. Every piece is a transaction of its own."""

    def __init__(self, rollup: Rollup, table: RolledTable, select: str, known: Mapping[int, _Known]) -> None:
        self._rollup = rollup
        self._table = table
        self._select = select
        self._known = known
        self._is_few = len(known) <= _FEW
        self._named = f" AND {_named('container', sorted(known))}" if self._is_few else ""

    def in_force(self, start_ms: int, most_ms: int) -> Iterator[list[tuple[Any, ...]]]:
        """The last row before the bucket of each key, and before a closing sample the one whose values it carries."""
        if self._table.table != "sample":
            yield from self._at_ends("max", f"ts_ms >= {start_ms - most_ms} AND ts_ms < {start_ms}")
            return
        ordinary = f"SELECT container, max(ts_ms) FROM sample WHERE ts_ms >= {start_ms - 2 * most_ms} AND NOT is_closing"
        closing = f"SELECT container, max(ts_ms) FROM sample WHERE ts_ms >= {start_ms - most_ms} AND is_closing"
        found = []
        for sql in (ordinary, closing):
            for page in self._asked(f"{sql} AND ts_ms < {start_ms}", " GROUP BY container"):
                found += page
                yield []
        yield from self._at({(ts_ms, id_) for id_, ts_ms in found}, None)

    def following(self, end_ms: int, most_ms: int) -> Iterator[list[tuple[Any, ...]]]:
        """The first row after the bucket of each key."""
        yield from self._at_ends("min", f"ts_ms >= {end_ms} AND ts_ms <= {end_ms + most_ms}")

    def _at_ends(self, which: str, where: str) -> Iterator[list[tuple[Any, ...]]]:
        keys = ", ".join(("container", *self._table.key[2:]))
        found = []
        for page in self._asked(f"SELECT {keys}, {which}(ts_ms) FROM {self._table.raw} WHERE {where}", f" GROUP BY {keys}"):
            found += page
            yield []
        wanted = {(row[-1], *row[:-1]) for row in found}
        yield from self._at({key[:2] for key in wanted}, None if self._table.label is None else wanted)

    def _at(self, keys: Collection[_Key], wanted: Collection[_Key] | None) -> Iterator[list[tuple[Any, ...]]]:
        """Rows of these (time, container), in the order of time; of them those whose key with the instance is wanted."""
        select = self._select.replace(" WHERE ", " JOIN v ON v.at_ms = ts_ms AND v.id = container")
        ordered = sorted(key for key in keys if key[1] in self._known)
        for first in range(0, len(ordered), _FEW):
            values = ", ".join(f"({int(ts_ms)}, {int(id_)})" for ts_ms, id_ in ordered[first : first + _FEW])
            rows = self._read(f"WITH v (at_ms, id) AS (VALUES {values}) {select} ORDER BY ts_ms")
            yield rows if wanted is None else [row for row in rows if row[:3] in wanted]

    def pages(self, start_ms: int, end_ms: int) -> Iterator[list[tuple[Any, ...]]]:
        """Its own rows. On SQLite by time, which is how they lie; on PostgreSQL by container."""
        span = f"ts_ms >= {{}} AND ts_ms < {end_ms}"
        if not self._rollup.is_embedded:
            yield from self._asked(self._select + span.format(start_ms), " ORDER BY container, ts_ms")
            return
        rows = SLICE_ROWS
        low: int | None = start_ms
        while low is not None:
            page = f"SELECT ts_ms FROM {self._table.raw} WHERE {span.format(low)} ORDER BY ts_ms LIMIT 1 OFFSET {rows}"
            after = self._read(page)
            # the rows of one time go together, however many they are
            high = max(after[0][0], low + 1) if after else end_ms
            found = self._read(f"{self._select}ts_ms >= {low} AND ts_ms < {high}{self._named} ORDER BY ts_ms")
            # where few of the rows are looked for, more of them can be passed over at once
            rows = SLICE_ROWS * min(10, max(1, rows // (len(found) + 1)))
            yield found
            low = high if after else None

    def _asked(self, sql: str, tail: str) -> Iterator[list[tuple[Any, ...]]]:
        """On SQLite at once, since it passes over the rows of all containers; on PostgreSQL a few containers at a time."""
        if self._rollup.is_embedded:
            yield self._read(sql + self._named + tail)
            return
        ids = sorted(self._known)
        for first in range(0, len(ids), _SERIES):
            yield self._read(f"{sql} AND {_named('container', ids[first : first + _SERIES])}{tail}")

    def is_empty(self, from_ms: int, to_ms: int) -> bool:
        """True if there is nothing to be had of this table: one look-up where others would be five."""
        if not self._rollup.is_embedded:
            return False
        return not self._read(f"SELECT 1 FROM {self._table.raw} WHERE ts_ms >= {from_ms} AND ts_ms <= {to_ms} LIMIT 1")

    def _read(self, sql: str) -> list[tuple[Any, ...]]:
        if self._rollup.is_embedded:
            # A statement is a transaction; a written one would take the lock that only a write needs.
            return self._rollup.rows(sql)
        with self._rollup.conn.begin():
            return self._rollup.rows(sql)


def _complain(table: RolledTable, width_ms: int, start_ms: int, key: _Key, exc: Exception) -> None:
    text = "no roll-up of %d s from %d ms of container %s in table %s: %s: %s"
    _LOG.warning(text, width_ms // 1000, start_ms, key, table.table, type(exc).__name__, exc)


def _named(column: str, ids: Iterable[int]) -> str:
    """The numbers stand in the text: there may be more of them than a statement may have parameters."""
    return f"{column} IN ({', '.join(str(int(id_)) for id_ in ids) or 'NULL'})"


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in names]
