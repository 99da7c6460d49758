"""Deletes what is older than a time or beyond a size, oldest first, in slices of a few milliseconds.

No VACUUM: it would rewrite everything, and the freed pages are used by the next rows, so that the file stops growing.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import sqlalchemy as sa

from tidegauge.pipeline.records import MAX_INT
from tidegauge.sinks.sql.database import Database

IDLE_S = 60.0
BUSY_S = 1.0
BUDGET_S = 0.025
"""The writer waits for a call that long, plus one slice."""
SLICE_ROWS = 1000

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
WHERE CASE WHEN last_ms IS NULL OR last_ms < ended_ms THEN coalesce(ended_ms, created_ms) ELSE last_ms END < ? LIMIT ?
"""


class Bounds(NamedTuple):
    older_than_ms: int | None
    """Rows before this time go; None: age does not matter."""
    max_bytes: int
    """Pages in use beyond this many bytes go; 0: size does not matter."""


class EventBounds(NamedTuple):
    """Bounds of one kind of event, beside those of everything."""

    older_than_ms: int | None
    """Events before this time go; None: only those of `Bounds`."""
    most: int
    """The oldest beyond so many go; 0 for no bound."""


def run_events(conn: sa.Connection, bounds_of: Callable[[str], EventBounds], is_over: Callable[[], bool]) -> bool:
    """As `run`, for the bounds of each kind of event. A kind within its bounds costs a count of its index entries."""
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


def run(
    conn: sa.Connection,
    database: Database,
    tables: Collection[str],
    bounds: Bounds,
    live: Collection[int],
    is_over: Callable[[], bool],
) -> bool:
    """Slices until nothing is left to delete (True) or `is_over` says so (False); at least one. Each is a transaction.

    `tables` are those with the key (ts_ms, container, ...); `live` are ids of containers that stay even without samples.
    Raises sqlalchemy.exc.DBAPIError.
    """
    horizon_ms = bounds.older_than_ms
    while (cut_ms := _next_cut(conn, database, tables, bounds)) is not None:
        for table in tables:
            with conn.begin():
                conn.exec_driver_sql(f"DELETE FROM {table} WHERE ts_ms < ?", (cut_ms,))
        horizon_ms = cut_ms if horizon_ms is None else max(horizon_ms, cut_ms)
        if is_over():
            return False
    while horizon_ms is not None and _delete_around(conn, horizon_ms, live):
        if is_over():
            return False
    return True


def _next_cut(conn: sa.Connection, database: Database, tables: Collection[str], bounds: Bounds) -> int | None:
    """The time before which rows go next: SLICE_ROWS of a table at most, or those of one time. None: all is within bounds."""
    with conn.begin():
        oldest = _ends(conn, tables, "min")
        if not oldest:
            return None
        if bounds.max_bytes > 0 and bounds.max_bytes < database.used_bytes(conn, tables):
            last = max(_ends(conn, tables, "max")) + 1
        elif bounds.older_than_ms is not None and min(oldest) < bounds.older_than_ms:
            last = bounds.older_than_ms
        else:
            return None
        sql = "SELECT ts_ms FROM {} ORDER BY ts_ms LIMIT 1 OFFSET {}"
        slices = [conn.exec_driver_sql(sql.format(table, SLICE_ROWS)).scalar() for table in tables]
        return max(min(int(t) for t in (last, *slices) if t is not None), min(oldest) + 1)


def _ends(conn: sa.Connection, tables: Collection[str], which: str) -> list[int]:
    """The first or last time of every table that has rows; one look-up each, where both in one query would be a scan."""
    found = (conn.exec_driver_sql(f"SELECT {which}(ts_ms) FROM {table}").scalar() for table in tables)
    return [int(ts_ms) for ts_ms in found if ts_ms is not None]


def _delete_around(conn: sa.Connection, horizon_ms: int, live: Collection[int]) -> bool:
    """One slice of the events, gaps and containers of which no sample is kept; True if there may be more."""
    with conn.begin():
        rows = 0
        for table, old in (("event", _OLD_EVENTS), ("gap", _OLD_GAPS)):
            sql = f"DELETE FROM {table} WHERE (source, row) IN ({old})"
            rows = max(rows, conn.exec_driver_sql(sql, (horizon_ms, SLICE_ROWS)).rowcount)
        found = conn.exec_driver_sql(_OLD_CONTAINERS, (horizon_ms, SLICE_ROWS + len(live))).scalars()
        if ids := [(id_,) for id_ in found if id_ not in live]:
            for table, column in (("container", "id"), ("container_metadata", "container"), ("container_span", "container")):
                conn.exec_driver_sql(f"DELETE FROM {table} WHERE {column} = ?", ids)
        return max(rows, len(ids)) >= SLICE_ROWS
