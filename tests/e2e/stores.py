"""What the stores hold, as sets that can be compared: the journal itself, SQLite, PostgreSQL, InfluxDB."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.program import Program
from tests.servers import Influxd, PostgresServer

from tidegauge.pipeline.journal import JournalReader, first_row, info
from tidegauge.pipeline.records import Container, Gap, RecordType, decode_record, decode_samples


class Reading(NamedTuple):
    """One sample in the form that all stores share."""

    path: str
    instance: str
    epoch: int
    ts_ms: int
    cpu_usage_ns: int | None
    memory_usage_bytes: int | None


_VALUES = ("cpu_usage_ns", "memory_usage_bytes")


class Journal(NamedTuple):
    readings: "Counter[Reading]"
    gaps: list[Gap]
    rows: int


def in_journal(folder: Path) -> Journal:
    """Everything that the journal holds, read beside or after the program by its own row numbers."""
    start = first_row(folder)
    end_row = info(folder).end_row
    assert end_row is not None
    reader = JournalReader(folder, start.row)
    schemas: dict[int, Any] = {}
    containers: dict[int, Container] = {}
    readings: Counter[Reading] = Counter()
    gaps: list[Gap] = []
    rows = 0
    while frames := reader.read(end_row, 1 << 20):
        for frame in frames:
            rows += frame.rows
            if frame.type == RecordType.SAMPLES:
                for s in decode_samples(frame.payload):
                    values = dict(zip(schemas[s.schema].names, s.values, strict=True))
                    c = containers[s.container]
                    readings[Reading(c.path, c.instance, c.epoch, s.ts_ms, *(values.get(v) for v in _VALUES))] += 1
                continue
            record = decode_record(frame.type, frame.payload, frame.first_row)
            match record:
                case Container():
                    containers[record.number] = record
                case Gap() if not frame.is_copy:
                    gaps.append(record)
                case _ if frame.type == RecordType.SCHEMA:
                    schemas[record.id] = record  # type: ignore[union-attr]
    reader.close()
    return Journal(readings, gaps, rows)


_ALL = (
    "SELECT c.path, c.instance, c.epoch, s.ts_ms, s.cpu_usage_ns, s.memory_usage_bytes "
    "FROM sample s JOIN container c ON c.id = s.container"
)


def in_sqlite(program: Program) -> "Counter[Reading]":
    return Counter(Reading(*row) for row in program.sql(_ALL))


def in_postgresql(server: PostgresServer, database: str) -> "Counter[Reading]":
    return Counter(Reading(*row) for row in server.sql(_ALL, database=database))


def in_influxdb(server: Influxd, database: str = "tidegauge") -> "Counter[Reading]":
    found: Counter[Reading] = Counter()
    if {"name": database} not in server.query("SHOW DATABASES"):
        return found
    for row in server.query(
        'SELECT cpu_usage_ns, memory_usage_bytes, is_closing FROM "container", "host" GROUP BY *', database
    ):
        found[
            Reading(
                row["container"],
                row["instance"],
                int(row.get("epoch") or 0),
                row["time"],
                row["cpu_usage_ns"],
                row["memory_usage_bytes"],
            )
        ] += 1
    return found
