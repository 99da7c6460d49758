"""What history asks of the SQL store: containers between two times, the readings of one metric, gaps. Statements and rows.

On SQLite rows lie in the order of time for all containers, so reading one container passes over the rows of all; on PostgreSQL
in the order of containers. A statement reads one row more than it may, so that a question that is too large ends early.
"""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, METRICS, SCALAR_TABLES
from tidegauge.pipeline.history import Bounds, ContainerKey, Reading, Span, StoredContainer
from tidegauge.pipeline.records import Kind, Metric
from tidegauge.sinks.sql.tables import container, container_metadata, container_span, custom, gap, metadata, sql_name
from tidegauge.sinks.sql.tables import metric as metric_table

_CHUNK = 5000
_TEXT = ("name", "namespace", "image", "runtime", "container_id", "pod", "pod_namespace", "pod_uid")
_BUILT_IN = {m.name: m for m in METRICS}


def metrics(conn: sa.Connection) -> list[Metric]:
    """Those of the catalogue, and what plug-ins and newer programs have stored here."""
    t = metric_table.c
    found = conn.execute(sa.select(t.name, t.kind, t.unit, t.stored_in, t.help).order_by(t.name))
    others = [Metric(r.name, Kind(r.kind), r.unit, r.stored_in, r.help) for r in found if r.name not in _BUILT_IN]
    return [*METRICS, *others]


def oldest_ms(conn: sa.Connection) -> int | None:
    sample = metadata.tables["sample"]
    oldest = sa.select(sa.func.min(sample.c.ts_ms))
    if conn.dialect.name != "sqlite":
        # its key begins with the container: a look-up for each is far less than all rows
        own = oldest.where(sample.c.container == container_span.c.container).scalar_subquery()
        oldest = sa.select(sa.func.min(own)).select_from(container_span)
    found: int | None = conn.execute(oldest).scalar()
    return found


def containers(conn: sa.Connection, since_ms: int, until_ms: int) -> list[StoredContainer]:
    m, other = container_metadata, container_metadata.alias()
    of_it = sa.select(sa.func.max(other.c.valid_from_ms)).where(other.c.container == container.c.id)
    first = sa.select(sa.func.min(other.c.valid_from_ms)).where(other.c.container == container.c.id)
    in_force = sa.func.coalesce(of_it.where(other.c.valid_from_ms <= until_ms).scalar_subquery(), first.scalar_subquery())
    c, s = container.c, container_span.c
    asked = (
        sa.select(
            *(c.id, c.source, c.instance, c.epoch, c.host, c.path, c.created_ms, c.ended_ms, s.first_ms, s.last_ms),
            *(m.c.aliases, m.c.labels, m.c.base_interval_s, m.c.max_interval_s),
            *(m.c[name] for name in _TEXT),
        )
        .select_from(container)
        .join(container_span, s.container == c.id)
        .join(m, sa.and_(m.c.container == c.id, m.c.valid_from_ms == in_force))
        .where(s.first_ms <= until_ms, s.last_ms >= since_ms)
    )
    found = [_container(row) for row in conn.execute(asked).mappings()]
    return sorted(found, key=lambda c: (c.host, c.path, c.first_ms, c.key))


def _container(row: sa.RowMapping) -> StoredContainer:
    return StoredContainer(
        key=ContainerKey(row["source"], row["instance"], row["epoch"]),
        host=row["host"],
        path=row["path"],
        aliases=msgspec.json.decode(row["aliases"], type=tuple[str, ...]),
        labels=msgspec.json.decode(row["labels"], type=dict[str, str]),
        created_ms=row["created_ms"],
        first_ms=row["first_ms"],
        last_ms=row["last_ms"],
        ended_ms=row["ended_ms"],
        silence_ms=round(1000 * (row["max_interval_s"] + row["base_interval_s"])),
        ref=row["id"],
        **{name: row[name] for name in _TEXT},
    )


def series(
    conn: sa.Connection, asked: Sequence[StoredContainer], metric: Metric, since_ms: int, until_ms: int, bounds: Bounds
) -> Mapping[ContainerKey, Mapping[str, Sequence[Reading]]]:
    keys = {c.ref: c.key for c in asked}
    found: dict[ContainerKey, dict[str, list[Reading]]] = {c.key: {} for c in asked}
    count = 0
    with contextlib.closing(_rows(conn, _statement(metric, list(keys), since_ms, until_ms), bounds.rows + 1)) as chunks:
        for rows in chunks:
            count += len(rows)
            bounds.check(count)
            for id_, instance, ts_ms, is_closing, value in rows:
                own = found[keys[id_]]
                readings = own.get(instance)
                if readings is None:
                    readings = own[instance] = []
                readings.append((ts_ms, bool(is_closing), value))
    for own in found.values():
        for readings in own.values():
            readings.sort(key=_ts_ms)
    return found


def _ts_ms(reading: Reading) -> int:
    return reading[0]


def _statement(metric: Metric, ids: Sequence[int], since_ms: int, until_ms: int) -> sa.Select[Any]:
    table = metadata.tables.get(sql_name(metric.table), custom)
    if metric.name not in table.c:
        table = custom
    t = table.c
    instance: sa.ColumnElement[str] = sa.literal_column("''")
    is_closing: sa.ColumnElement[Any] = sa.literal_column("0")
    where: list[sa.ColumnElement[bool]] = [t.ts_ms.between(since_ms, until_ms)]
    if table is custom:
        value, instance = t.value, t.instance
        where.append(t.metric == metric.name)
    elif metric.table == "sample":
        # without the type, or the rows pass through a function each
        value, is_closing = t[metric.name], sa.type_coerce(t.is_closing, sa.types.NullType)
    else:
        value = t[metric.name]
        where.append(value.is_not(None))
        if metric.table not in SCALAR_TABLES:
            instance = t[INSTANCE_LABELS[metric.table]]
    # the numbers stand in the text: there may be more of them than a statement may have parameters
    where.append(t.container.in_([sa.literal_column(str(int(id_))) for id_ in ids]))
    return sa.select(t.container, instance, t.ts_ms, is_closing, sa.type_coerce(value, sa.types.NullType)).where(*where)


def _rows(conn: sa.Connection, asked: sa.Select[Any], limit: int) -> Generator[Sequence[Sequence[Any]], None, None]:
    with conn.execution_options(stream_results=True).execute(asked.limit(limit)) as streamed:
        while rows := streamed.fetchmany(_CHUNK):
            yield rows


def gaps(
    conn: sa.Connection, asked: Sequence[StoredContainer], since_ms: int, until_ms: int
) -> Mapping[ContainerKey, Sequence[Span]]:
    g = gap.c
    of_all: dict[str, list[Span]] = {}
    of_one: dict[int, list[Span]] = {}
    for row in conn.execute(
        sa.select(g.source, g.container, g.from_ms, g.to_ms).where(g.from_ms <= until_ms, g.to_ms >= since_ms)
    ):
        span = (row.from_ms, row.to_ms)
        if row.container is None:
            of_all.setdefault(row.source, []).append(span)
        else:
            of_one.setdefault(row.container, []).append(span)
    return {c.key: sorted([*of_all.get(c.key.source, ()), *of_one.get(c.ref, ())]) for c in asked}
