"""Reads the SQL store: history, and whole samples of a container. Safe from any thread, beside the writer."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from tidegauge.pipeline.buckets import Bucket
from tidegauge.pipeline.catalogue import INSTANCE_LABELS, SCALAR_TABLES
from tidegauge.pipeline.history import Bounds, ContainerKey, Kept, Reading, Span, StoredContainer, StoreError, TooMuch
from tidegauge.pipeline.plugin import Point
from tidegauge.pipeline.records import MAX_INT, Metric, Value
from tidegauge.sinks.sql import history_series, rollup_read
from tidegauge.sinks.sql.database import Database
from tidegauge.sinks.sql.sqlite import SqliteDatabase
from tidegauge.sinks.sql.tables import metadata, sql_name

T = TypeVar("T")
_REMEMBER_S = 60.0
"""How long it is remembered since when there are rows."""
_SAMPLE_COLUMNS = frozenset(c.name for c in metadata.tables["sample"].columns)
_EPOCHS = """
SELECT id, first_ms, last_ms FROM container JOIN container_span ON container = id WHERE instance = ?
ORDER BY epoch DESC, id DESC
"""


class SqlHistory:
    """A PointReader and a RollupReader over one database. Values that are NULL are left out of points, `pairs` of containers
    are not stored.

    Raises sqlalchemy.exc.DBAPIError if the database is not there or cannot be read, and where a question takes longer than
    `limit_s`: rows lie in the order of time, so one about long ago on a host of many containers can read the whole file.
    """

    def __init__(self, where: Database | Path, limit_s: float | None = None) -> None:
        """A path is that of an SQLite file."""
        self._database = SqliteDatabase(where) if isinstance(where, Path) else where
        # Twice: by then a server that answers has stopped the question itself.
        self._engine = self._database.reading_engine(None if limit_s is None else 2 * limit_s)
        self._limit_s = limit_s
        self._known: dict[str, tuple[float, object]] = {}

    @contextlib.contextmanager
    def _connected(self, deadline_s: float = math.inf) -> Iterator[sa.Connection]:
        end_s = min(deadline_s, math.inf if self._limit_s is None else time.monotonic() + self._limit_s)
        with self._engine.connect() as conn:
            if end_s == math.inf:
                yield conn
            else:
                with self._database.limit_time(conn, end_s):
                    yield conn

    @contextlib.contextmanager
    def _asked(self, deadline_s: float = math.inf) -> Iterator[sa.Connection]:
        """As `_connected`, with the errors of a HistoryReader."""
        try:
            with self._connected(deadline_s) as conn:
                yield conn
        except sa.exc.DBAPIError as exc:
            if self._database.is_interrupted(exc):
                raise TooMuch("the question takes too long") from exc
            raise StoreError(f"{self._database.name}: {exc.orig}") from exc

    def metrics(self) -> Sequence[Metric]:
        with self._asked() as conn:
            return history_series.metrics(conn)

    def oldest_ms(self) -> int | None:
        def ask() -> int | None:
            with self._asked() as conn:
                return history_series.oldest_ms(conn)

        return self._remembered("", ask)

    def containers(self, since_ms: int, until_ms: int) -> Sequence[StoredContainer]:
        with self._asked() as conn:
            return history_series.containers(conn, since_ms, until_ms)

    def series(
        self, containers: Sequence[StoredContainer], metric: Metric, since_ms: int, until_ms: int, bounds: Bounds
    ) -> Mapping[ContainerKey, Mapping[str, Sequence[Reading]]]:
        with self._asked(bounds.deadline_s) as conn:
            return history_series.series(conn, containers, metric, since_ms, until_ms, bounds)

    def gaps(
        self, containers: Sequence[StoredContainer], since_ms: int, until_ms: int
    ) -> Mapping[ContainerKey, Sequence[Span]]:
        with self._asked() as conn:
            return history_series.gaps(conn, containers, since_ms, until_ms)

    def kept(self, metric: Metric) -> Mapping[int, Kept]:
        def ask() -> Mapping[int, Kept]:
            with self._asked() as conn:
                return rollup_read.kept(conn, metric)

        return self._remembered(metric.name, ask)

    def _remembered(self, what: str, ask: Callable[[], T]) -> T:
        """The answer of the last minute, if it was one: it takes a look-up for each container, and moves with retention."""
        now_s = time.monotonic()
        asked_s, found = self._known.get(what, (-math.inf, None))
        if now_s - asked_s < _REMEMBER_S:
            return cast(T, found)
        found = ask()
        if found is not None and (not isinstance(found, Mapping) or all(k.oldest_ms is not None for k in found.values())):
            self._known[what] = (now_s, found)
        return found

    def unsettled_ms(self, containers: Sequence[StoredContainer], width_ms: int, since_ms: int, until_ms: int) -> int | None:
        with self._asked() as conn:
            return rollup_read.unsettled_ms(conn, containers, width_ms, since_ms, until_ms)

    def rolled(
        self,
        containers: Sequence[StoredContainer],
        metric: Metric,
        width_ms: int,
        since_ms: int,
        until_ms: int,
        bounds: Bounds,
        *,
        with_sketch: bool = False,
    ) -> Mapping[ContainerKey, Mapping[str, Sequence[Bucket]]]:
        with self._asked(bounds.deadline_s) as conn:
            return rollup_read.rolled(conn, containers, metric, width_ms, since_ms, until_ms, bounds, with_sketch=with_sketch)

    def points(self, instance: str, start_ms: int | None, end_ms: int | None, limit: int | None) -> Sequence[Point]:
        low, high = -MAX_INT if start_ms is None else start_ms, MAX_INT if end_ms is None else end_ms
        left = MAX_INT if limit is None else limit
        newest_first: list[Point] = []
        with self._connected() as conn:
            for id_, first_ms, last_ms in conn.exec_driver_sql(_EPOCHS, (instance,)).all():
                span = (max(low, first_ms), min(high, last_ms))
                found = _points(conn, id_, *span, left - len(newest_first))
                newest_first += reversed(found)
        return newest_first[::-1]

    def first_ms(self, instance: str) -> int | None:
        """When the first sample ever stored of it was taken; retention may have deleted it since. None if there is none."""
        with self._connected() as conn:
            return min((row[1] for row in conn.exec_driver_sql(_EPOCHS, (instance,)).all()), default=None)

    def columns(self, instance: str, metrics: Sequence[str], start_ms: int, end_ms: int) -> Sequence[tuple[Value, ...]]:
        """(epoch, ts_ms, value of each metric) within [start, end], by epoch and time. ValueError: none of the table `sample`.

        Rows lie in the order of time for all containers, so the cost follows the rows of all within the span.
        """
        if unknown := set(metrics) - _SAMPLE_COLUMNS:
            raise ValueError(f"not in the table sample: {', '.join(sorted(unknown))}")
        sql = (
            f"SELECT epoch, ts_ms, {', '.join(metrics)} FROM container JOIN sample ON sample.container = container.id "
            "WHERE instance = ? AND ts_ms BETWEEN ? AND ? ORDER BY epoch, ts_ms"
        )
        with self._connected() as conn:
            return [tuple(row) for row in conn.exec_driver_sql(sql, (instance, start_ms, end_ms))]

    def close(self) -> None:
        self._engine.dispose()


def _points(conn: sa.Connection, id_: int, low: int, high: int, limit: int) -> list[Point]:
    """Points of one container of the store, oldest first; the newest `limit` of them."""
    sql = "SELECT * FROM sample WHERE ts_ms BETWEEN ? AND ? AND container = ? ORDER BY ts_ms DESC LIMIT ?"
    newest_first = _rows(conn, sql, low, high, id_, limit)
    if not newest_first:
        return []
    span = (newest_first[-1]["ts_ms"], newest_first[0]["ts_ms"], id_)
    values = {row["ts_ms"]: _values(row) for row in reversed(newest_first)}
    tables: dict[int, dict[str, dict[str, dict[str, Value]]]] = {ts_ms: {} for ts_ms in values}
    for name in (*SCALAR_TABLES[1:], *INSTANCE_LABELS):
        label = INSTANCE_LABELS.get(name, "")
        for row in _rows(conn, f"SELECT * FROM {sql_name(name)} WHERE ts_ms BETWEEN ? AND ? AND container = ?", *span):
            found = {row["metric"]: row["value"]} if name == "custom" else _values(row, label)
            instance = row.get(label, "")
            if instance == "":
                values[row["ts_ms"]].update(found)
            else:
                tables[row["ts_ms"]].setdefault(name, {}).setdefault(instance, {}).update(found)
    return [Point(r["ts_ms"], bool(r["is_closing"]), values[r["ts_ms"]], tables[r["ts_ms"]]) for r in reversed(newest_first)]


def _rows(conn: sa.Connection, sql: str, *arguments: int | str) -> list[Mapping[str, Any]]:
    result = conn.exec_driver_sql(sql, arguments)
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


def _values(row: Mapping[str, Any], label: str = "") -> dict[str, Value]:
    return {k: v for k, v in row.items() if v is not None and k not in ("ts_ms", "container", "is_closing", label)}
