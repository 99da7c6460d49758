"""Tables of roll-ups, derived from the catalogue: `sample_5m`, `sample_1h` and the same for four other tables.

Keyed (container, ts_ms): the rows of one container lie together, which raw rows on SQLite do not. `docs/rollups.md` says what
the columns mean.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, METRICS
from tidegauge.pipeline.records import Kind, Metric
from tidegauge.sinks.sql.rows import Columns
from tidegauge.sinks.sql.tables import _key, _value_column, sql_name
from tidegauge.sinks.sql.tables import metadata as metadata

FIVE_MINUTES_MS = 300_000
HOUR_MS = 3_600_000
SUFFIXES = MappingProxyType({FIVE_MINUTES_MS: "5m", HOUR_MS: "1h"})
ROLLED_UP = ("sample", "sample_host", "network", "disk_io", "filesystem")
"""Tables of the catalogue that have roll-ups."""
SKETCHED = frozenset(
    ("cpu_usage_ns", "memory_working_set_bytes", "network_receive_bytes", "network_transmit_bytes"),
)
"""Metrics with a sketch: of a gauge's values, of a counter's rates a second."""
HEAD = ("count", "covered_ms", "partial")


class Column(NamedTuple):
    """A metric of a roll-up table, and what stands of it there, in this order."""

    metric: Metric
    parts: tuple[str, ...]
    """`avg`, `min`, `max`, `last` of a gauge; `increase`, `last` of a counter; `sketch`."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.metric.name}_{part}" for part in self.parts)


def parts_of(metric: Metric) -> tuple[str, ...]:
    parts = ("increase", "last") if metric.kind is Kind.COUNTER else ("avg", "min", "max", "last")
    return (*parts, "sketch") if metric.name in SKETCHED else parts


class RolledTable(NamedTuple):
    """One table of the catalogue with its roll-ups, as far as this database has their columns."""

    table: str
    """Its name in the catalogue."""
    label: str | None
    """What tells the rows of one sample apart; None for one row a sample."""
    columns: tuple[Column, ...]

    @property
    def raw(self) -> str:
        return sql_name(self.table)

    def name(self, width_ms: int) -> str:
        return f"{sql_name(self.table)}_{SUFFIXES[width_ms]}"

    @property
    def key(self) -> tuple[str, ...]:
        return ("container", "ts_ms") if self.label is None else ("container", "ts_ms", self.label)

    @property
    def value_names(self) -> tuple[str, ...]:
        """Columns beside the key, in the order of a roll-up row's values."""
        return (*HEAD, *(name for column in self.columns for name in column.names))


def rolled_tables(columns: Columns | None = None) -> list[RolledTable]:
    """All of them; with the columns of a database by table, those of it that this database has."""
    found = []
    for table in ROLLED_UP:
        own = [Column(m, parts_of(m)) for m in METRICS if m.table == table]
        if columns is not None:
            raw = set(columns.get(sql_name(table), ()))
            rolled = [set(columns.get(f"{sql_name(table)}_{suffix}", ())) for suffix in SUFFIXES.values()]
            own = [c for c in own if c.metric.name in raw and all(has.issuperset(c.names) for has in rolled)]
        if own:
            found.append(RolledTable(table, INSTANCE_LABELS.get(table), tuple(own)))
    return found


def _columns(column: Column) -> list[sa.Column[Any]]:
    types: dict[str, Any] = {"avg": sa.Double, "sketch": sa.LargeBinary}
    value = _value_column(column.metric).type
    return [sa.Column(name, types.get(part, value)) for name, part in zip(column.names, column.parts, strict=True)]


for _rolled in rolled_tables():
    for _width_ms in SUFFIXES:
        sa.Table(
            _rolled.name(_width_ms),
            metadata,
            *(_key(name, sa.Text if name == _rolled.label else sa.BigInteger) for name in _rolled.key),
            sa.Column("count", sa.BigInteger, nullable=False),
            sa.Column("covered_ms", sa.BigInteger, nullable=False),
            sa.Column("partial", sa.Text),
            *(c for column in _rolled.columns for c in _columns(column)),
            sqlite_with_rowid=False,
        )


def periods(width_ms: int, since_ms: int, until_ms: int) -> Iterator[tuple[datetime, int, int]]:
    """(beginning, the same in ms, end in ms) of the days of 5 minutes, or the months of hours, that touch a span. UTC.

    So much of some containers is read at once.
    """
    at = datetime.fromtimestamp(since_ms / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if width_ms == HOUR_MS:
        at = at.replace(day=1)
    while (from_ms := round(at.timestamp() * 1000)) < until_ms:
        end = at + timedelta(days=1) if width_ms == FIVE_MINUTES_MS else (at + timedelta(days=31)).replace(day=1)
        yield at, from_ms, round(end.timestamp() * 1000)
        at = end


rollup_dirty = sa.Table(
    "rollup_dirty",
    metadata,
    _key("width_ms"),
    _key("ts_ms"),
    _key("container"),
    sa.Column("marks", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Buckets to make, or to make again. `marks` rises with each row that comes for a bucket which is marked already, so that who
made it meanwhile sees that this was too early."""

rollup_deleted = sa.Table(
    "rollup_deleted",
    metadata,
    _key("width_ms"),
    sa.Column("before_ms", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Before which time rows were deleted, by resolution; 0 is raw. Buckets of that time cannot be made again."""

ROLLUP_TABLES = tuple(rolled.name(width_ms) for rolled in rolled_tables() for width_ms in SUFFIXES)
