"""Deletes what is older than a time or beyond a size, oldest first, in slices of a few milliseconds.

No VACUUM: it would rewrite everything, and the freed pages are used by the next rows, so that the file stops growing. On
PostgreSQL raw rows go with their day's partition, which costs no more than removing a file.

Nothing goes before what is made of it: raw rows wait for the marks on their 5 minutes, these for the marks on their hour.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from tidegauge.pipeline.rates import FILESYSTEM_SILENCE_MS
from tidegauge.pipeline.records import MAX_INT
from tidegauge.sinks.sql import partitions
from tidegauge.sinks.sql.database import Database
from tidegauge.sinks.sql.tables_rollup import FIVE_MINUTES_MS, HOUR_MS

IDLE_S = 60.0
BUSY_S = 1.0
BUDGET_S = 0.025
"""The writer waits for a call that long, plus one slice."""
SLICE_ROWS = 1000
_SLICE_CONTAINERS = 100
"""Of a table whose key begins with the container: so many at once."""
DAY_MS = 86_400_000
_LOCK_WAIT = "SET LOCAL lock_timeout = '40ms'"
_NOT_AVAILABLE = "55P03"

_OLD_EVENTS = "SELECT source, row FROM event WHERE ts_ms < ? ORDER BY ts_ms LIMIT ?"
_NEXT_KIND = "SELECT min(kind) FROM event WHERE kind > ?"
_COUNT = "SELECT count(*) FROM event WHERE kind = ?"
_DELETE_OF_KIND = """
DELETE FROM event WHERE (source, row) IN
    (SELECT source, row FROM event WHERE kind = ? AND ts_ms < ? ORDER BY ts_ms, row LIMIT ?)
"""
_OLD_GAPS = "SELECT source, row FROM gap WHERE to_ms < ? LIMIT ?"
_OLD_CONTAINERS = """
SELECT id FROM container LEFT JOIN container_span ON container = id
WHERE CASE WHEN last_ms IS NULL OR last_ms < ended_ms THEN coalesce(ended_ms, created_ms) ELSE last_ms END < ?{kept} LIMIT ?
"""
_KEPT = " AND NOT EXISTS (SELECT 1 FROM {table} t WHERE t.container = container.id)"
_SILENCE = "SELECT max(max_interval_s + base_interval_s) FROM container_metadata"
_DELETED = "SELECT before_ms FROM rollup_deleted WHERE width_ms = ?"
SET_DELETED = """
INSERT INTO rollup_deleted (width_ms, before_ms) VALUES (?, ?)
ON CONFLICT (width_ms) DO UPDATE SET before_ms = excluded.before_ms WHERE excluded.before_ms > rollup_deleted.before_ms
"""


class Resolution(NamedTuple):
    """Raw samples or one width of roll-ups, and how long it is kept."""

    width_ms: int
    """0: raw."""
    tables: Sequence[str]
    keep_ms: int | None
    """Older ones go; None: age does not matter."""
    share_ms: int
    """When the size is too large, all resolutions shrink in proportion to this."""


class EventBounds(NamedTuple):
    """Bounds of one kind of event, beside those of everything."""

    older_than_ms: int | None
    """Events before this time go; None: only those of everything."""
    most: int
    """The oldest beyond so many go; 0 for no bound."""


def run_events(conn: sa.Connection, bounds_of: Callable[[str], EventBounds], is_over: Callable[[], bool]) -> bool:
    """As `Retention.run`, for the bounds of each kind of event. A kind within its bounds costs a count of its index entries."""
    kind: str | None = ""
    while True:
        with conn.begin():
            kind = conn.exec_driver_sql(_NEXT_KIND, (kind,)).scalar()
        if kind is None:
            return True
        while _delete_of_kind(conn, kind, bounds_of(kind)):
            if is_over():
                return False


def _delete_of_kind(conn: sa.Connection, kind: str, bounds: EventBounds) -> bool:
    """One slice of a kind, oldest first; True if there may be more."""
    with conn.begin():
        if bounds.older_than_ms is not None:
            deleted = conn.exec_driver_sql(_DELETE_OF_KIND, (kind, bounds.older_than_ms, SLICE_ROWS)).rowcount
            if deleted >= SLICE_ROWS:
                return True
        if not bounds.most:
            return False
        over = conn.exec_driver_sql(_COUNT, (kind,)).scalar_one() - bounds.most
        if over > 0:
            conn.exec_driver_sql(_DELETE_OF_KIND, (kind, MAX_INT, min(over, SLICE_ROWS)))
        return bool(over > SLICE_ROWS)


class Retention:
    """Of one connection. `resolutions` begin with raw; `max_bytes` 0: size does not matter."""

    def __init__(self, conn: sa.Connection, database: Database, resolutions: Sequence[Resolution], max_bytes: int) -> None:
        self._conn = conn
        self._database = database
        self._resolutions = resolutions
        self._raw = resolutions[0]
        self._max_bytes = max_bytes
        self._work: Iterator[None] | None = None

    def run(self, now_ms: int, live: Collection[int], is_over: Callable[[], bool]) -> bool:
        """Slices until nothing is left to delete (True) or `is_over` says so (False); at least one. Each is a transaction.

        `live` are ids of containers that stay even without samples. Raises sqlalchemy.exc.DBAPIError.
        """
        while True:
            try:
                if self._work is None:
                    self._work = self._next(now_ms)
                    if self._work is None:
                        break
                next(self._work)
            except StopIteration:
                self._work = None
            except BaseException:
                self._work = None
                raise
            if is_over():
                return False
        horizon_ms = self._horizon_ms(now_ms)
        while horizon_ms is not None and self._delete_around(horizon_ms, live):
            if is_over():
                return False
        return True

    def _next(self, now_ms: int) -> Iterator[None] | None:
        """What goes next; None: all is within bounds, or has to wait."""
        with self._conn.begin():
            bars = self._bars()
            for resolution in self._resolutions:
                if resolution.keep_ms is None:
                    continue
                if (cut_ms := self._cut(resolution, now_ms - resolution.keep_ms, bars)) is not None:
                    return self._delete(resolution, cut_ms)
            if not self._is_too_large():
                return None
            return self._shrink(now_ms, bars)

    def _shrink(self, now_ms: int, bars: dict[int, int]) -> Iterator[None] | None:
        """A piece of the resolution that reaches furthest back in proportion to what it is to hold."""
        found = []
        for resolution in self._resolutions:
            oldest_ms = self._oldest_ms(resolution)
            if oldest_ms is not None:
                found.append(((now_ms - oldest_ms) / resolution.share_ms, resolution, oldest_ms))
        for _, resolution, oldest_ms in sorted(found, key=lambda f: f[0], reverse=True):
            piece_ms = {0: DAY_MS, FIVE_MINUTES_MS: HOUR_MS}.get(resolution.width_ms, DAY_MS)
            until_ms = oldest_ms // piece_ms * piece_ms + piece_ms if self._is_by_piece(resolution) else MAX_INT
            if (cut_ms := self._cut(resolution, until_ms, bars)) is not None:
                return self._delete(resolution, cut_ms)
        return None

    def _is_too_large(self) -> bool:
        tables = [t for resolution in self._resolutions for t in resolution.tables]
        return 0 < self._max_bytes < self._database.used_bytes(self._conn, tables)

    def _is_by_piece(self, resolution: Resolution) -> bool:
        """True where rows go by whole hours or days; False where by their number."""
        return bool(resolution.width_ms) or not self._database.is_embedded

    def _bars(self) -> dict[int, int]:
        """By resolution, from when on rows have to stay since something is still to be made of them."""
        silence_ms = max(FILESYSTEM_SILENCE_MS, round(1000 * (self._conn.exec_driver_sql(_SILENCE).scalar() or 0)))
        five, hour = (
            self._conn.exec_driver_sql("SELECT min(ts_ms) FROM rollup_dirty WHERE width_ms = ?", (width_ms,)).scalar()
            for width_ms in (FIVE_MINUTES_MS, HOUR_MS)
        )
        bars = {} if five is None else {0: five - 2 * silence_ms, FIVE_MINUTES_MS: five // HOUR_MS * HOUR_MS}
        if hour is not None:
            bars[FIVE_MINUTES_MS] = min(bars.get(FIVE_MINUTES_MS, hour), hour)
        return bars

    def _oldest_ms(self, resolution: Resolution) -> int | None:
        """When its oldest rows are of; earlier, and cheap, where only a scan would tell. None: it has none."""
        if self._is_by_piece(resolution):
            deleted = self._conn.exec_driver_sql(_DELETED, (resolution.width_ms,)).scalar()
            first = self._conn.exec_driver_sql("SELECT min(first_ms) FROM container_span").scalar()
            return None if first is None else max(int(first), deleted or 0)
        return self._first(resolution.tables, "SELECT min(ts_ms) AS ts_ms FROM {}")

    def _first(self, tables: Sequence[str], of_one: str, which: str = "min") -> int | None:
        """The least, or greatest, of what a statement gives for each table.

        Asked apart each is one look-up in the table's key; both ends in one question would be a scan.
        """
        each = " UNION ALL ".join(f"SELECT ts_ms FROM ({of_one.format(table)}) AS t" for table in tables)
        found = self._conn.exec_driver_sql(f"SELECT {which}(ts_ms) FROM ({each}) AS every").scalar()
        return None if found is None else int(found)

    def _cut(self, resolution: Resolution, until_ms: int, bars: dict[int, int]) -> int | None:
        """The time before which rows go next. On SQLite of raw SLICE_ROWS of a table at most, or those of one time."""
        until_ms = min(until_ms, bars.get(resolution.width_ms, until_ms))
        if self._is_by_piece(resolution):
            piece_ms = HOUR_MS if resolution.width_ms == FIVE_MINUTES_MS else DAY_MS
            until_ms = until_ms // piece_ms * piece_ms
            deleted = self._conn.exec_driver_sql(_DELETED, (resolution.width_ms,)).scalar()
            first, last = self._conn.exec_driver_sql("SELECT min(first_ms), max(last_ms) FROM container_span").one()
            if first is None:
                return None
            until_ms = min(until_ms, last // piece_ms * piece_ms + piece_ms)
            if until_ms <= first // piece_ms * piece_ms or (deleted is not None and until_ms <= deleted):
                return None
            return until_ms
        oldest_ms = self._oldest_ms(resolution)
        if oldest_ms is None or until_ms <= oldest_ms:
            return None
        newest_ms = self._first(resolution.tables, "SELECT max(ts_ms) AS ts_ms FROM {}", "max")
        assert newest_ms is not None
        until_ms = min(until_ms, 1 + newest_ms)
        slice_ms = self._first(resolution.tables, f"SELECT ts_ms FROM {{}} ORDER BY ts_ms LIMIT 1 OFFSET {SLICE_ROWS}")
        return min(until_ms, max(until_ms if slice_ms is None else slice_ms, oldest_ms + 1))

    def _delete(self, resolution: Resolution, cut_ms: int) -> Iterator[None]:
        # Ahead of the rows: from now on their buckets are not made again.
        with self._conn.begin():
            self._conn.exec_driver_sql(SET_DELETED, (resolution.width_ms, cut_ms))
        if self._is_by_piece(resolution):
            tables = list(resolution.tables)
            if not resolution.width_ms:
                tables = yield from self._drop_partitions(tables, cut_ms)
            yield from self._delete_by_container(tables, cut_ms)
            return
        for table in resolution.tables:
            with self._conn.begin():
                self._conn.exec_driver_sql(f"DELETE FROM {table} WHERE ts_ms < ?", (cut_ms,))
        yield

    def _delete_by_container(self, tables: Sequence[str], cut_ms: int) -> Iterator[None]:
        if not tables:
            return
        with self._conn.begin():
            ids = list(
                self._conn.exec_driver_sql("SELECT container FROM container_span WHERE first_ms < ?", (cut_ms,)).scalars()
            )
        # `sample` last: a container goes when nothing of it is left there, and what is left of others would stay for ever.
        for table in reversed(tables):
            for first in range(0, len(ids), _SLICE_CONTAINERS):
                named = ", ".join(str(int(id_)) for id_ in ids[first : first + _SLICE_CONTAINERS])
                with self._conn.begin():
                    self._conn.exec_driver_sql(f"DELETE FROM {table} WHERE container IN ({named}) AND ts_ms < ?", (cut_ms,))
                yield

    def _drop_partitions(self, tables: Sequence[str], cut_ms: int) -> Generator[None, None, list[str]]:
        """Drops the days that are over before a time. Returns the tables that have no partitions."""
        with self._conn.begin():
            found = partitions.found(self._conn)
            hypertables = partitions.hypertables(self._conn)
        for table in tables:
            if table in hypertables:
                with self._conn.begin():
                    partitions.drop_chunks(self._conn, table, cut_ms)
                yield
            for partition in found.get(table, ()):
                if partition.to_ms > cut_ms:
                    break
                try:
                    with self._conn.begin():
                        # Who reads the table now holds it, and who writes would wait behind this: rather another time.
                        self._conn.exec_driver_sql(_LOCK_WAIT)
                        self._conn.exec_driver_sql(f'DROP TABLE "{partition.name}"')
                except sa.exc.DBAPIError as exc:
                    if getattr(exc.orig, "sqlstate", None) != _NOT_AVAILABLE:
                        raise
                yield
        return [table for table in tables if table not in found and table not in hypertables]

    def _horizon_ms(self, now_ms: int) -> int | None:
        """Before when there are no raw rows; None if that is not known."""
        with self._conn.begin():
            deleted: int | None = self._conn.exec_driver_sql(_DELETED, (0,)).scalar()
            if not self._database.is_embedded:
                return deleted
            ends = [deleted] if deleted is not None else []
            if self._raw.keep_ms is not None:
                ends.append(now_ms - self._raw.keep_ms)
            if not ends:
                return None
            oldest_ms = self._oldest_ms(self._raw)
            return max(ends) if oldest_ms is None else min(max(ends), oldest_ms)

    def _delete_around(self, horizon_ms: int, live: Collection[int]) -> bool:
        """One slice of the events, gaps and containers of which no sample is kept; True if there may be more."""
        kept = "".join(_KEPT.format(table=r.tables[0]) for r in self._resolutions[1:])
        with self._conn.begin():
            rows = 0
            for table, old in (("event", _OLD_EVENTS), ("gap", _OLD_GAPS)):
                sql = f"DELETE FROM {table} WHERE (source, row) IN ({old})"
                rows = max(rows, self._conn.exec_driver_sql(sql, (horizon_ms, SLICE_ROWS)).rowcount)
            sql = _OLD_CONTAINERS.format(kept=kept)
            found = self._conn.exec_driver_sql(sql, (horizon_ms, SLICE_ROWS + len(live))).scalars()
            if ids := [(id_,) for id_ in found if id_ not in live]:
                for table, column in (
                    ("container", "id"),
                    ("container_metadata", "container"),
                    ("container_span", "container"),
                ):
                    self._conn.exec_driver_sql(f"DELETE FROM {table} WHERE {column} = ?", ids)
            return max(rows, len(ids)) >= SLICE_ROWS
