"""What history asks of the roll-ups of the SQL store: statements and rows. Safe beside the writer."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from tidegauge.pipeline.buckets import Bucket
from tidegauge.pipeline.history import Bounds, ContainerKey, Kept, StoredContainer
from tidegauge.pipeline.records import Kind, Metric
from tidegauge.pipeline.sketch import Sketch
from tidegauge.sinks.sql.rollup_rows import partial_of
from tidegauge.sinks.sql.tables import container_span, metadata
from tidegauge.sinks.sql.tables_rollup import FIVE_MINUTES_MS, SUFFIXES, Column, RolledTable, rolled_tables, rollup_dirty

_CHUNK = 5000
_COLUMNS: Mapping[str, tuple[RolledTable, Column]] = {
    column.metric.name: (table, column) for table in rolled_tables() for column in table.columns
}


def kept(conn: sa.Connection, metric: Metric) -> Mapping[int, Kept]:
    """By width in ms; empty for a metric without roll-ups."""
    if metric.name not in _COLUMNS:
        return {}
    rolled, column = _COLUMNS[metric.name]
    out = {}
    for width_ms in SUFFIXES:
        t = metadata.tables[rolled.name(width_ms)].c
        # the key begins with the container: a look-up for each is far less than all rows
        own = sa.select(sa.func.min(t.ts_ms)).where(t.container == container_span.c.container).scalar_subquery()
        oldest = conn.execute(sa.select(sa.func.min(own)).select_from(container_span)).scalar()
        out[width_ms] = Kept(oldest, "sketch" in column.parts)
    return out


def unsettled_ms(
    conn: sa.Connection, containers: Sequence[StoredContainer], width_ms: int, since_ms: int, until_ms: int
) -> int | None:
    """Beginning of the first bucket within [since, until) that is to be made, or made again; None: there is none."""
    t = rollup_dirty.c
    asked = sa.select(sa.func.min(t.ts_ms)).where(t.ts_ms < until_ms, _among(t.container, containers))
    found = [conn.execute(asked.where(t.width_ms == width_ms, t.ts_ms >= since_ms)).scalar()]
    if width_ms != FIVE_MINUTES_MS:
        # An hour of which 5 minutes are still to be made will be marked only then.
        parts = asked.where(t.width_ms == FIVE_MINUTES_MS, t.ts_ms >= since_ms // width_ms * width_ms)
        found.append(conn.execute(parts).scalar())
    return min((ts_ms // width_ms * width_ms for ts_ms in found if ts_ms is not None), default=None)


def rolled(
    conn: sa.Connection,
    containers: Sequence[StoredContainer],
    metric: Metric,
    width_ms: int,
    since_ms: int,
    until_ms: int,
    bounds: Bounds,
    *,
    with_sketch: bool = False,
) -> Mapping[ContainerKey, Mapping[str, Sequence[Bucket]]]:
    """Buckets that begin within [since, until), by container and instance, by time. Raises TooMuch by `bounds`."""
    found: dict[ContainerKey, dict[str, list[Bucket]]] = {}
    if metric.name not in _COLUMNS or width_ms not in SUFFIXES:
        return found
    table, column = _COLUMNS[metric.name]
    t = metadata.tables[table.name(width_ms)].c
    parts = [part for part in column.parts if part != "sketch" or with_sketch]
    label = sa.literal_column("''") if table.label is None else t[table.label]
    asked = (
        sa.select(t.container, label, t.ts_ms, t["count"], t.covered_ms, t.partial, *(t[f"{metric.name}_{p}"] for p in parts))
        .where(_among(t.container, containers), t.ts_ms >= since_ms, t.ts_ms < until_ms)
        .limit(bounds.rows + 1)
    )
    keys = {c.ref: c.key for c in containers}
    is_counter, has_sketch, last = metric.kind is Kind.COUNTER, "sketch" in parts, parts.index("last")
    count = 0
    with conn.execution_options(stream_results=True).execute(asked) as streamed:
        while rows := streamed.fetchmany(_CHUNK):
            count += len(rows)
            bounds.check(count)
            for id_, instance, ts_ms, readings, covered_ms, partial, *values in rows:
                if values[last] is None:
                    continue
                if partial is not None:
                    readings, covered_ms = partial_of(partial).get(metric.name, (readings, covered_ms))
                bucket = Bucket(ts_ms, ts_ms + width_ms)
                bucket.count, bucket.covered_ms, bucket.last = readings, covered_ms, values[last]
                if is_counter:
                    bucket.increase = values[0]
                else:
                    bucket.min, bucket.max = values[1:3]
                    bucket.total = (values[0] or 0) * covered_ms
                if has_sketch:
                    bucket.sketch = Sketch.decode(values[-1]) if values[-1] is not None else Sketch()
                found.setdefault(keys[id_], {}).setdefault(instance, []).append(bucket)
    for by_instance in found.values():
        for buckets in by_instance.values():
            buckets.sort(key=lambda bucket: bucket.start_ms)
    return found


def _among(column: sa.ColumnElement[int], containers: Sequence[StoredContainer]) -> sa.ColumnElement[bool]:
    # the numbers stand in the text: there may be more of them than a statement may have parameters
    return column.in_([sa.literal_column(str(int(c.ref))) for c in containers])
