"""Rows of tables back to the records that they came from: what `copy` and `import` read.

A source of tables is a database or a folder of Parquet files; both hold the tables of `tables.py` under the same names.
"""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

import msgspec

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, METRICS, SCALAR_TABLES
from tidegauge.pipeline.copying import SLICE_MS, Timed, order_of
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import (
    Container,
    End,
    Event,
    Gap,
    Kind,
    Metric,
    Sample,
    Schema,
    Spec,
    TableRows,
    TableSchema,
    Value,
)
from tidegauge.sinks.sql.tables import SPEC_COLUMNS

Rows: TypeAlias = Sequence[tuple[Any, ...]]
NAMES_WAIT_MS = 2000
"""Names that come so soon stand at the first sample: a store with names in its tags gets one series, as from the journal."""
_LEAST_MS, _MOST_MS = 60_000, 86_400_000
_MANY_ROWS = 20_000
_INSTANCE_TABLES = tuple(name for name in INSTANCE_LABELS if name != "custom")


class TableSource(Protocol):
    """Tables by name, of which some columns may be missing, and of instance tables all."""

    def columns(self, table: str) -> Sequence[str]:
        """Its columns in the order of the rows; () if there is no such table."""
        ...

    def all(self, table: str) -> Rows:
        """Every row of a small table."""
        ...

    def rows(self, table: str, from_ms: int, to_ms: int) -> Rows:
        """Rows with from_ms <= time < to_ms, ordered by their key; the time is `ts_ms`, of a gap `from_ms`."""
        ...

    def next_ms(self, at_ms: int) -> int | None:
        """Time of the first row of `sample`, `event` or `gap` at this time or later."""
        ...

    def full_ms(self, from_ms: int, to_ms: int, rows: int) -> int | None:
        """Time behind so many rows of `sample`, counted from `from_ms` on; None: there are no more of them before `to_ms`."""
        ...

    def rolled(self, table: str, from_ms: int, to_ms: int) -> Iterator[Rows]:
        """Rows of a table of roll-ups with from_ms <= ts_ms < to_ms, some thousand at a time."""
        ...

    def close(self) -> None: ...


def named_rows(tables: TableSource, table: str, *names: str) -> Iterator[tuple[Any, ...]]:
    """Chosen columns of a small table; nothing where there is no such table."""
    columns = tables.columns(table)
    if columns:
        at = [columns.index(n) for n in names]
        for row in tables.all(table):
            yield tuple(row[i] for i in at)


class TableRecords:
    """A `copying.RecordSource` over tables."""

    def __init__(self, tables: TableSource) -> None:
        self.tables = tables
        self._columns = {t: tuple(tables.columns(t)) for t in (*SCALAR_TABLES, *INSTANCE_LABELS, "event", "gap")}
        spans = {
            c: (first, last) for c, first, last in named_rows(tables, "container_span", "container", "first_ms", "last_ms")
        }
        self._containers: dict[int, list[Timed]] = {}
        """By the store's id, each its records by time."""
        self._ends: dict[int, Timed] = {}
        self._read_containers(spans)
        changes = [t for timed in self._containers.values() for t in timed] + list(self._ends.values())
        self._changes = sorted(changes, key=order_of)
        self._change_times = [t.at_ms for t in self._changes]
        self._schemas = self._make_schemas()
        self._numbers = {id_: timed[0].record.number for id_, timed in self._containers.items()}  # type: ignore[union-attr]
        self._hosts = {id_ for id_, timed in self._containers.items() if timed[0].record.is_host}  # type: ignore[union-attr]
        self._chunk: tuple[int, int] = (0, 0)
        self._chunk_ms = 10 * _LEAST_MS
        self._chunk_records: list[Timed] = []
        self._chunk_times: list[int] = []

    def heads(self, at_ms: int) -> list[Schema | Container]:
        out: list[Schema | Container] = list(self._schemas)
        for id_, timed in self._containers.items():
            end = self._ends.get(id_)
            if timed[0].at_ms < at_ms and (end is None or end.at_ms >= at_ms):
                newest = [t.record for t in timed if t.at_ms < at_ms][-1]
                assert isinstance(newest, Container)
                out.append(newest)
        return out

    def next_ms(self, at_ms: int) -> int | None:
        found = self._chunk_after(at_ms)
        if found is None:
            found = self.tables.next_ms(max(at_ms, self._chunk[1]) if self._chunk[0] <= at_ms else at_ms)
        i = bisect_right(self._change_times, at_ms - 1)
        changed = self._change_times[i] if i < len(self._changes) else None
        return min((t for t in (found, changed) if t is not None), default=None)

    def _chunk_after(self, at_ms: int) -> int | None:
        if not self._chunk[0] <= at_ms < self._chunk[1]:
            return None
        i = bisect_right(self._chunk_times, at_ms - 1)
        return self._chunk_times[i] if i < len(self._chunk_times) else None

    def records(self, from_ms: int, to_ms: int) -> Iterator[Timed]:
        if not (self._chunk[0] <= from_ms and to_ms <= self._chunk[1]):
            self._read_chunk(from_ms, to_ms)
        low, high = (bisect_right(self._chunk_times, t - 1) for t in (from_ms, to_ms))
        first, last = (bisect_right(self._change_times, t - 1) for t in (from_ms, to_ms))
        yield from sorted(self._chunk_records[low:high] + self._changes[first:last], key=order_of)

    def close(self) -> None:
        self.tables.close()

    def _read_chunk(self, from_ms: int, to_ms: int) -> None:
        """Reads a span at once, as long as it has about as many rows as are handled well; more come without warning."""
        most_ms = from_ms + self._chunk_ms
        if (full_ms := self.tables.full_ms(from_ms, most_ms, _MANY_ROWS)) is not None:
            most_ms = full_ms // SLICE_MS * SLICE_MS
        to_ms = max(to_ms, most_ms)
        found = [*self._samples(from_ms, to_ms), *self._others(from_ms, to_ms)]
        found.sort(key=order_of)
        self._chunk, self._chunk_records, self._chunk_times = (from_ms, to_ms), found, [t.at_ms for t in found]
        if len(found) > _MANY_ROWS:
            self._chunk_ms = max(_LEAST_MS, self._chunk_ms // 2)
        elif len(found) < _MANY_ROWS // 4:
            self._chunk_ms = min(_MOST_MS, self._chunk_ms * 2)

    # Samples

    def _make_schemas(self) -> tuple[Schema, Schema]:
        """Of containers and of the host, over all columns that rows can have: those of metrics that were seen."""
        builtin = {m.name: m for m in METRICS}
        told = {name: row for name, *row in named_rows(self.tables, "metric", "name", "kind", "unit", "stored_in", "help")}

        def metric(name: str, table: str) -> Metric:
            if name in builtin and builtin[name].table == table:
                return builtin[name]
            kind, unit, _, text = told.get(name, ("gauge", "number", table, ""))
            return Metric(name, Kind(kind), unit, table, text)

        self._scalars = [(t, [c for c in self._columns[t] if c in told]) for t in SCALAR_TABLES if self._columns[t]]
        seen = {t: [c for c in self._columns[t] if c in told and c != INSTANCE_LABELS[t]] for t in _INSTANCE_TABLES}
        self._instance_columns = instance_tables = {t: columns for t, columns in seen.items() if columns}
        tables = [
            TableSchema(t, INSTANCE_LABELS[t], tuple(metric(c, t) for c in self._instance_columns[t])) for t in instance_tables
        ]
        stored = [columns for _, columns in self._scalars] + list(instance_tables.values())
        in_columns = {name for columns in stored for name in columns}
        self._custom_scalars = [n for n, row in told.items() if n not in in_columns and row[2] in (*SCALAR_TABLES, "custom")]
        self._custom_tables: dict[str, list[str]] = {}
        for name, row in told.items():
            if name not in in_columns and name not in self._custom_scalars:
                self._custom_tables.setdefault(str(row[2]), []).append(name)
        for table, names in self._custom_tables.items():
            tables.append(TableSchema(table, "instance", tuple(metric(n, table) for n in names)))
        self._tables_in_order = tuple(t.name for t in tables)
        custom = [metric(n, "custom") for n in self._custom_scalars]
        host = [metric(c, t) for t, columns in self._scalars for c in columns]
        plain = [metric(c, t) for t, columns in self._scalars for c in columns if t != "sample_host"]
        return Schema.of([*plain, *custom], tables), Schema.of([*host, *custom], tables)

    def _samples(self, from_ms: int, to_ms: int) -> Iterator[Timed]:
        plain, host = self._schemas
        found: dict[str, dict[tuple[int, int], tuple[Value, ...]]] = {}
        for table, columns in self._scalars[1:]:
            at = [self._columns[table].index(c) for c in ("ts_ms", "container", *columns)]
            rows = self.tables.rows(table, from_ms, to_ms)
            found[table] = {(row[at[0]], row[at[1]]): tuple(row[i] for i in at[2:]) for row in rows}
        instances = {t: self._instances(t, from_ms, to_ms) for t in self._instance_columns}
        customs, custom_tables = self._customs(from_ms, to_ms)
        instances |= custom_tables
        core = [self._columns["sample"].index(c) for c in ("ts_ms", "container", "is_closing", *self._scalars[0][1])]
        nothing = {table: (None,) * len(columns) for table, columns in self._scalars}
        no_customs = (None,) * len(self._custom_scalars)
        for row in self.tables.rows("sample", from_ms, to_ms):
            ts_ms, id_, is_closing = (row[i] for i in core[:3])
            if id_ not in self._numbers:
                continue
            key = (ts_ms, id_)
            values: tuple[Value, ...] = tuple(row[i] for i in core[3:])
            is_host = id_ in self._hosts
            for table, _ in self._scalars[1:]:
                if is_host or table != "sample_host":
                    values += found[table].get(key, nothing[table])
            values += customs.get(key, no_customs)
            held: tuple[TableRows | None, ...] = tuple(
                None if (r := instances[t].get(key)) is None else tuple(r) for t in self._tables_in_order
            )
            if all(r is None for r in held):
                held = ()
            schema = host if is_host else plain
            yield Timed(ts_ms, Sample(self._numbers[id_], ts_ms, schema.id, values, held, bool(is_closing)))

    def _instances(self, table: str, from_ms: int, to_ms: int) -> dict[tuple[int, int], list[tuple[Any, ...]]]:
        names = self._columns[table]
        at = [names.index(c) for c in ("ts_ms", "container", INSTANCE_LABELS[table], *self._instance_columns[table])]
        out: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        for row in self.tables.rows(table, from_ms, to_ms):
            out.setdefault((row[at[0]], row[at[1]]), []).append(tuple(row[i] for i in at[2:]))
        return out

    def _customs(
        self, from_ms: int, to_ms: int
    ) -> tuple[dict[tuple[int, int], tuple[Value, ...]], dict[str, dict[tuple[int, int], list[tuple[Any, ...]]]]]:
        """Values of metrics without a column: one a container, and those of tables that have none."""
        scalar = {name: i for i, name in enumerate(self._custom_scalars)}
        place = {name: (table, i) for table, names in self._custom_tables.items() for i, name in enumerate(names)}
        scalars: dict[tuple[int, int], list[Value]] = {}
        tables: dict[str, dict[tuple[int, int], dict[str, list[Value]]]] = {t: {} for t in self._custom_tables}
        if self._columns["custom"]:
            at = [self._columns["custom"].index(c) for c in ("ts_ms", "container", "metric", "instance", "value")]
            for row in self.tables.rows("custom", from_ms, to_ms):
                ts_ms, id_, name, instance, value = (row[i] for i in at)
                if name in scalar:
                    scalars.setdefault((ts_ms, id_), [None] * len(scalar))[scalar[name]] = as_number(value)
                elif name in place:
                    table, i = place[name]
                    of = tables[table].setdefault((ts_ms, id_), {})
                    of.setdefault(instance, [None] * len(self._custom_tables[table]))[i] = as_number(value)
        listed = {
            table: {key: [(instance, *values) for instance, values in rows.items()] for key, rows in by_key.items()}
            for table, by_key in tables.items()
        }
        return {key: tuple(values) for key, values in scalars.items()}, listed

    # Everything else

    def _read_containers(self, spans: Mapping[int, tuple[int, int]]) -> None:
        columns = list(self.tables.columns("container"))
        stored = {row[columns.index("id")]: dict(zip(columns, row, strict=True)) for row in self.tables.all("container")}
        borne = Counter(about["number"] for about in stored.values())
        for about in stored.values():
            # several agents' numbers, or those of a journal begun anew, are not told apart within one log
            if borne[about["number"]] > 1:
                about["number"] = _number_of(f"{about['source']}\0{about['instance']}\0{about['epoch']}")
        names = list(self.tables.columns("container_metadata"))
        rows = sorted(
            self.tables.all("container_metadata"), key=lambda r: (r[names.index("container")], r[names.index("valid_from_ms")])
        )
        for row in rows:
            about = dict(zip(names, row, strict=True))
            id_ = about.pop("container")
            if (identity := stored.get(id_)) is None:
                continue
            record = _container(identity, about)
            earlier = self._containers.setdefault(id_, [])
            at_ms = record.valid_from_ms
            if not earlier and id_ in spans:
                at_ms = min(at_ms, spans[id_][0])
            elif earlier and at_ms - earlier[0].at_ms <= NAMES_WAIT_MS:
                at_ms = earlier[0].at_ms
            earlier.append(Timed(at_ms, record))
        for id_, timed in self._containers.items():
            ended_ms = stored[id_]["ended_ms"]
            if ended_ms is not None:
                last_ms = max(timed[-1].at_ms, spans.get(id_, (0, 0))[1], ended_ms)
                number = timed[0].record.number  # type: ignore[union-attr]
                self._ends[id_] = Timed(last_ms, End(number, ended_ms))

    def _others(self, from_ms: int, to_ms: int) -> Iterator[Timed]:
        names = self._columns["event"]
        for row in self.tables.rows("event", from_ms, to_ms):
            e = dict(zip(names, row, strict=True))
            number = self._numbers.get(e["container"])
            if e["container"] is None or number is not None:
                details = msgspec.json.decode(e["details"])
                yield Timed(e["ts_ms"], Event(e["ts_ms"], e["kind"], number, details, e["row"], e["source"]))
        names = self._columns["gap"]
        for row in self.tables.rows("gap", from_ms, to_ms):
            g = dict(zip(names, row, strict=True))
            number = self._numbers.get(g["container"])
            if g["container"] is None or number is not None:
                gap = Gap(g["source"], g["from_ms"], g["to_ms"], g["reason"], number, g["rows_lost"], g["row"])
                yield Timed(g["from_ms"], gap)


def _container(identity: Mapping[str, Any], about: Mapping[str, Any]) -> Container:
    """The record of one row of `container_metadata`."""
    of_spec = {name: about.get(name) for name in SPEC_COLUMNS}
    decoded = {
        "aliases": msgspec.json.decode(about["aliases"], type=tuple[str, ...]),
        "labels": msgspec.json.decode(about["labels"], type=dict[str, str]),
        "environment": msgspec.json.decode(about["environment"], type=dict[str, str]),
        "machine": None if about.get("machine") is None else msgspec.json.decode(about["machine"], type=Machine),
    }
    own = {name: identity[name] for name in ("number", "source", "instance", "epoch", "boot_id", "path", "host", "created_ms")}
    rest = {name: v for name, v in about.items() if name not in SPEC_COLUMNS}
    spec = Spec(**of_spec)
    return Container(**own, **(rest | decoded), spec=None if spec == Spec() else spec)


def _number_of(key: str) -> int:
    """One that no journal gives out, the same for this key in every copy."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1 | 1 << 62


def as_number(value: Any) -> Value:
    """A value of the table `custom`. PostgreSQL gives a Decimal, whose scale and size tell a float from an integer."""
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 and abs(value) < 1 << 63 else float(value)
    out: Value = value
    return out
