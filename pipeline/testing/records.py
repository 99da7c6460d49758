"""Builders of records, a deterministic log, and the flat form in which stores are compared."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.records import (
    UNLIMITED,
    Batch,
    Container,
    End,
    Event,
    Gap,
    Kind,
    Metric,
    Record,
    Sample,
    Schema,
    TableRows,
    Value,
    Values,
)

Key: TypeAlias = tuple[str, int, int]
"""(instance, epoch, ts_ms) of a sample."""
Stored: TypeAlias = Iterable[tuple[Key, Mapping[str, Value]]]
"""Samples in the flat form of `flat`, one entry for each that the store holds, so that a doubled one shows."""

SOURCE = "7d3c6f52-9b1e-4a57-8d0f-2f1c5a6e9b04"
BOOT_ID = "0b9f3a1e-55c2-4f6e-a1f7-3c2d9e8b7a60"
START_MS = 1_700_000_000_000
METRICS = ("cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "memory_usage_bytes", "memory_limit_bytes", "pids_current")
TABLES = ("network",)
PLUGIN_METRICS = (
    Metric("queue_depth", Kind.GAUGE, "count", "custom", "Jobs that wait, as a plug-in counts them."),
    Metric("queue_age_seconds", Kind.GAUGE, "seconds", "custom", "Age of the oldest job that waits."),
)
"""A fragment as a plug-in collector brings it: no sink knows these names beforehand."""


def make_container(number: int = 1, path: str | None = None, **fields: Any) -> Container:
    """A container with names and labels; its instance id follows from its path."""
    path = f"/docker/{number:064x}" if path is None else path
    instance = fields.pop("instance", f"{sum(i * b for i, b in enumerate(path.encode(), 1)):016x}")
    defaults: dict[str, Any] = {
        "source": SOURCE,
        "epoch": 0,
        "boot_id": BOOT_ID,
        "host": "host-a",
        "created_ms": START_MS - 60_000,
        "valid_from_ms": START_MS - 60_000,
        "pairs": (("unified", 1000 + number),),
        "name": f"web-{number}",
        "image": "registry.example/web:1.2",
        "labels": {"tier": "front", "com.example.team": "blue"},
    }
    return Container(number=number, instance=instance, path=path, **(defaults | fields))


def make_schema(names: Sequence[str] = METRICS, tables: Sequence[str] = TABLES, fragment: Sequence[Metric] = ()) -> Schema:
    """A schema over catalogue names, and over metrics that a plug-in brings along."""
    catalogue = Catalogue()
    catalogue.add("a plug-in", fragment)
    return catalogue.schema([*names, *(m.name for m in fragment)], tables)


def make_sample(
    schema: Schema,
    container: int = 1,
    ts_ms: int = START_MS,
    tables: tuple[TableRows | None, ...] = (),
    *,
    is_closing: bool = False,
    **values: Value,
) -> Sample:
    """A sample with the named values; every other is None."""
    order: Values = tuple(values.pop(n, None) for n in schema.names)
    if values:
        raise ValueError(f"not in the schema: {', '.join(values)}")
    return Sample(container, ts_ms, schema.id, order, tables, is_closing)


def make_batch(
    samples: Sequence[Sample],
    containers: Iterable[Container] = (),
    schemas: Iterable[Schema] = (),
    first_row: int = 1,
) -> Batch:
    """The samples with consecutive row numbers. Without containers or schemas: those of the builders' defaults."""
    schemas = tuple(schemas) or (make_schema(),)
    containers = tuple(containers) or tuple(make_container(n) for n in sorted({s.container for s in samples}))
    return Batch(
        tuple(samples),
        tuple(range(first_row, first_row + len(samples))),
        {s.id: s for s in schemas},
        {c.number: c for c in containers},
    )


def generate_records(
    ticks: int = 10, containers: int = 3, first_row: int = 1, start_ms: int = START_MS, step_ms: int = 1000
) -> Iterator[Record]:
    """Records as a log holds them, in log order, the same at every call, with a sequence number in every row.

    The host is container 1. The sequence number of a sample is its `cpu_usage_ns`; numbers begin at `first_row` and are
    equal to the row number. Of events it stands in the details, else it is the row number alone.
    """
    row = first_row
    schema = msgspec.structs.replace(make_schema(), row=row)
    yield schema
    row += 1
    live: dict[int, Container] = {}
    for number in range(1, containers + 1):
        path = "/" if number == 1 else f"/docker/{number:064x}"
        live[number] = make_container(number, path, created_ms=start_ms, valid_from_ms=start_ms, row=row)
        yield live[number]
        yield Event(start_ms, "creation", number, {"sequence": row + 1}, row + 1, SOURCE)
        row += 2
    for tick in range(1, ticks + 1):
        ts_ms = start_ms + tick * step_ms
        samples = [_generated(schema, n, ts_ms, row + i, tick) for i, n in enumerate(live)]
        yield make_batch(samples, live.values(), (schema,), row)
        row += len(samples)
        if tick == ticks // 2:
            yield Gap(SOURCE, ts_ms, ts_ms + step_ms // 2, "stall", None, None, row)
            row += 1
    if containers > 1:
        yield End(containers, start_ms + ticks * step_ms + 1, row)


def _generated(schema: Schema, number: int, ts_ms: int, sequence: int, tick: int) -> Sample:
    is_closing = tick % 5 == 4
    values: dict[str, Value] = {"cpu_usage_ns": sequence}
    tables: tuple[TableRows | None, ...] = ()
    if not is_closing:
        values |= {
            "cpu_user_ns": sequence * 3 // 4,
            "memory_usage_bytes": (number << 20) + sequence * 4096,
            "memory_limit_bytes": UNLIMITED if number % 2 else 256 << 20,
            "pids_current": 0 if tick % 3 == 0 else tick % 3,
        }
        if tick % 2:
            tables = ((("eth0", sequence, 1, 0, 0, sequence * 2, 2, 0, 0), ("lo", 0, 0, 0, 0, 0, 0, None, None)),)
    return make_sample(schema, number, ts_ms, tables, is_closing=is_closing, **values)


def rows_of(records: Iterable[Record]) -> list[int]:
    """Row numbers that the records carry, in order."""
    out: list[int] = []
    for r in records:
        if isinstance(r, Batch):
            out.extend(r.rows)
        else:
            out.append(r.row)
    return out


def flat(records: Iterable[Record]) -> list[tuple[Key, dict[str, Value]]]:
    """Samples of the records in order: key, and values by name without those that are None.

    A value of an instance table is named `metric[instance]`; a closing sample holds `is_closing`: 1.
    """
    out: list[tuple[Key, dict[str, Value]]] = []
    for batch in records:
        if not isinstance(batch, Batch):
            continue
        for s in batch.samples:
            schema, c = batch.schemas[s.schema], batch.containers[s.container]
            values: dict[str, Value] = {m.name: v for m, v in zip(schema.metrics, s.values, strict=True) if v is not None}
            for table, rows in zip(schema.tables, s.tables, strict=False):
                for instance, *cells in rows or ():
                    named = zip(table.metrics, cells, strict=True)
                    values |= {f"{m.name}[{instance}]": v for m, v in named if isinstance(v, int | float)}
            if s.is_closing:
                values["is_closing"] = 1
            out.append(((c.instance, c.epoch, s.ts_ms), values))
    return out
