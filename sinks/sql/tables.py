"""Tables of the SQL store, derived from the catalogue: the names of columns are the names of metrics.

Times are integer milliseconds UTC. Every metric's column may be NULL: not available, or not read. `container` columns hold
`container.id`, without foreign keys: these cost a look-up a row, and retention deletes samples first. Sample tables have the
key (ts_ms, container): rows then arrive in key order, which is a quarter of the CPU and a tenth of the I/O of the other order.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, METRICS, SCALAR_TABLES
from tidegauge.pipeline.records import Metric, Spec

WRITER_VERSION = 1
"""How this program writes rows. Raised when an older writer would put wrong rows into the newer tables."""

REVISION = "0003"
"""The newest migration, stated here so that an up-to-date database is opened without importing Alembic."""

_REAL_UNITS = ("seconds", "ratio", "number")
_REAL_NAMES = ("load1", "load5", "load15")

SPEC_COLUMNS = {f.name: int if f.type == int | None else str for f in msgspec.structs.fields(Spec)}
"""Columns of `container_metadata` that hold the fields of a Spec, with their types."""

_RENAMED = {"network": "sample_network", "filesystem": "sample_filesystem"}


def sql_name(table: str) -> str:
    """Name in the database of a table of the catalogue: the same, but for those whose names are views for people."""
    return _RENAMED.get(table, table)


metadata = sa.MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_name)s"}
)


def _value_column(metric: Metric) -> sa.Column[Any]:
    if metric.unit in _REAL_UNITS or metric.name in _REAL_NAMES:
        return sa.Column(metric.name, sa.Double)
    return sa.Column(metric.name, sa.BigInteger)


def _key(name: str, type_: type[sa.types.TypeEngine[Any]] = sa.BigInteger) -> sa.Column[Any]:
    return sa.Column(name, type_, primary_key=True, autoincrement=False)


def _metrics_of(table: str) -> list[sa.Column[Any]]:
    return [_value_column(m) for m in METRICS if m.table == table]


container = sa.Table(
    "container",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("instance", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("ended_ms", sa.BigInteger),
    sa.UniqueConstraint("source", "instance", "epoch"),
    sa.Index("ix_container_path", "source", "path"),
    sa.Index("ix_container_number", "agent", "number"),
)
"""One (instance, epoch) of one source. `number` is its number in the journal of `agent`, the UUID of the agent that wrote it:
its source, unless it is of a host that this agent asks."""

container_span = sa.Table(
    "container_span",
    metadata,
    sa.Column("container", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("first_ms", sa.BigInteger, nullable=False),
    sa.Column("last_ms", sa.BigInteger, nullable=False),
)
"""Times of the first and the last sample ever stored of a container. Apart from `container`, since it changes with every
write: 200 of these narrow rows share a page, 20 of the other's."""

container_metadata = sa.Table(
    "container_metadata",
    metadata,
    _key("container"),
    _key("valid_from_ms"),
    sa.Column("name", sa.Text),
    sa.Column("namespace", sa.Text),
    sa.Column("image", sa.Text),
    sa.Column("aliases", sa.Text, nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("base_interval_s", sa.Double, nullable=False),
    sa.Column("max_interval_s", sa.Double, nullable=False),
    sa.Column("runtime", sa.Text),
    sa.Column("container_id", sa.Text),
    sa.Column("runtime_created_ms", sa.BigInteger),
    sa.Column("restart_count", sa.BigInteger),
    sa.Column("health", sa.Text),
    sa.Column("network", sa.Text),
    sa.Column("pod", sa.Text),
    sa.Column("pod_namespace", sa.Text),
    sa.Column("pod_uid", sa.Text),
    sa.Column("environment", sa.Text, nullable=False),
    *(sa.Column(name, sa.BigInteger if type_ is int else sa.Text) for name, type_ in SPEC_COLUMNS.items()),
    sa.Column("machine", sa.Text),
)
"""Names, limits and intervals in force from `valid_from_ms` until the container's next row. `aliases`, `labels`, `environment`
and `machine` are JSON. Limits are NULL before they were read, and `machine` is for all but the host."""

for _name in SCALAR_TABLES:
    sa.Table(
        _name,
        metadata,
        _key("ts_ms"),
        _key("container"),
        *([sa.Column("is_closing", sa.Boolean, nullable=False)] if _name == "sample" else []),
        *_metrics_of(_name),
        sqlite_with_rowid=False,
    )

for _name, _label in INSTANCE_LABELS.items():
    if _name != "custom":
        sa.Table(
            sql_name(_name),
            metadata,
            _key("ts_ms"),
            _key("container"),
            _key(_label, sa.Text),
            *_metrics_of(_name),
            sqlite_with_rowid=False,
        )

custom = sa.Table(
    "custom",
    metadata,
    _key("ts_ms"),
    _key("container"),
    _key("metric", sa.Text),
    _key("instance", sa.Text),
    sa.Column("value", sa.Numeric(asdecimal=False), nullable=False),
    sqlite_with_rowid=False,
)
"""Values without a column of their own: plug-ins' metrics, and those of a newer program. `instance` is '' for one value a
container. The type keeps integers of 64 bits and floats apart as they came."""

metric = sa.Table(
    "metric",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("stored_in", sa.Text, nullable=False),
    sa.Column("help", sa.Text, nullable=False),
)
"""What the metrics seen so far mean, from the schema records."""

event = sa.Table(
    "event",
    metadata,
    _key("source", sa.Text),
    _key("row"),
    sa.Column("ts_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("container", sa.BigInteger),
    sa.Column("details", sa.Text, nullable=False),
    sa.Index("ix_event_kind", "kind", "ts_ms"),
    sqlite_with_rowid=False,
)
"""`row` is the record's row number in the source's journal; `details` is JSON."""

gap = sa.Table(
    "gap",
    metadata,
    _key("source", sa.Text),
    _key("row"),
    sa.Column("from_ms", sa.BigInteger, nullable=False),
    sa.Column("to_ms", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("container", sa.BigInteger),
    sa.Column("rows_lost", sa.BigInteger),
    sa.Index("ix_gap_to_ms", "source", "to_ms"),
    sqlite_with_rowid=False,
)
"""Spans of which nothing is known. `container` is NULL for all containers of the source."""

writer = sa.Table(
    "writer",
    metadata,
    sa.Column("min_version", sa.BigInteger, nullable=False),
    sa.Column("max_version", sa.BigInteger, nullable=False),
)
"""One row: which WRITER_VERSIONs may write. Migrations change it; an agent outside the range does not write."""

SAMPLE_TABLES = (*SCALAR_TABLES, *map(sql_name, INSTANCE_LABELS))
"""Tables with the key (ts_ms, container, ...), which retention cuts by time."""
