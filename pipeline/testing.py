"""For tests of plug-ins, ours and a stranger's: builders of records, a fake clock, a recording sink, the contract of sinks.

Needs pytest, which is no dependency of the program. Public API:

    class TestMySink(SinkContract):
        def make_sink(self, tmp_path):
            return MySink(MyConfig(path=tmp_path / "db"))

        def stored(self, sink):
            return [((row.instance, row.epoch, row.ts_ms), row.metrics) for row in sink.everything()]
"""

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import msgspec
import pytest

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import RetryableError
from tidegauge.pipeline.journal import Frame, Position, RowGone
from tidegauge.pipeline.log_end import LogEnd
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import (
    MAX_INT,
    UNLIMITED,
    Batch,
    Container,
    End,
    Event,
    Gap,
    Kind,
    Metric,
    Record,
    RecordType,
    Sample,
    Schema,
    TableRows,
    Value,
    Values,
    encode_record,
    encode_samples,
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


class FakeClock:
    """Wall and monotonic time that only move when told."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._wall_ns = now_ms * 1_000_000
        self._mono_ns = 1_000_000_000

    def time_ns(self) -> int:
        return self._wall_ns

    def time_ms(self) -> int:
        return self._wall_ns // 1_000_000

    def time(self) -> float:
        return self._wall_ns / 1e9

    def monotonic_ns(self) -> int:
        return self._mono_ns

    def monotonic(self) -> float:
        return self._mono_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Lets time pass on both clocks."""
        self._wall_ns += round(seconds * 1e9)
        self._mono_ns += round(seconds * 1e9)

    sleep = advance

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Time passes at once, at least a nanosecond; whether the event is set."""
        self.advance(max(timeout_s, 1e-9))
        return event.is_set()

    def step(self, seconds: float) -> None:
        """Sets the wall clock forward or back, as an administrator or NTP does."""
        self._wall_ns += round(seconds * 1e9)


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
        yield Event(start_ms, "creation", number, {"sequence": row + 1}, row + 1)
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


class RecordingConfig(msgspec.Struct, frozen=True):
    pass


class RecordingSink:
    """Holds what it is given in memory, by key, and fails as told. Give two the same `store` to restart one.

    `script` is consumed one entry a write: None stores, an exception is raised, a callable is called with the records and
    may raise. After it every write stores. What was stored in order, with repeats, is in `written`.
    """

    Config = RecordingConfig
    takes: tuple[type, ...] = (Batch, Schema, Container, Event, Gap, End)
    cursor_lasts: bool = True

    def __init__(self, config: RecordingConfig | None = None, store: dict[Key, dict[str, Value]] | None = None) -> None:
        self.store: dict[Key, dict[str, Value]] = {} if store is None else store
        self.script: deque[BaseException | Callable[[Sequence[Record]], None] | None] = deque()
        self.written: list[Record] = []
        self.attempts = 0
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def write(self, records: Sequence[Record]) -> None:
        self.attempts += 1
        step = self.script.popleft() if self.script else None
        if isinstance(step, BaseException):
            raise step
        if step is not None:
            step(records)
        self.keep(records)

    def keep(self, records: Sequence[Record]) -> None:
        """Stores without asking the script; for callables that take some rows and refuse others."""
        self.written.extend(records)
        self.store.update(flat(records))

    def close(self) -> None:
        self.is_open = False


class ListLog:
    """The journal in memory, for tests of what reads it: `append`, then tell `end` to a runner with `tell`."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.accepted: list[int] = []
        """Rows accepted before each frame."""
        self.row = 1
        self.total = 0
        self.end = LogEnd()
        self._gone = Position(0, 0)
        self._reason = "bound"

    def append(self, record: Record | Sequence[Sample], time_ms: int | None = None) -> int:
        """Takes a record, or the samples of one tick, and returns its first row. Rows that it bears are not looked at."""
        if isinstance(record, Batch):
            record = record.samples
        if isinstance(record, Schema | Container | Event | Gap | End):
            type_, payload = encode_record(record)
            rows, ts_ms = 1, getattr(record, "valid_from_ms", getattr(record, "ts_ms", getattr(record, "from_ms", START_MS)))
        else:
            type_, payload, rows = RecordType.SAMPLES, encode_samples(record), len(record)
            ts_ms = record[0].ts_ms
        return self.append_frame(type_, payload, rows, ts_ms if time_ms is None else time_ms)

    def append_frame(self, type_: int, payload: bytes, rows: int, time_ms: int) -> int:
        first = self.row
        self.frames.append(Frame(type_, first, rows, time_ms, payload, False))
        self.accepted.append(self.total)
        self.row += rows
        self.total += rows
        return first

    def tell(self, synced_row: int | None = None) -> None:
        """Lets readers have all of it. `synced_row` None: all of it is on the disk."""
        self.end.set(self.row, self.row if synced_row is None else synced_row, self.total)

    def restart(self) -> None:
        """The next rows are those of another start."""
        self.row = (self.row // 2**32 + 1) * 2**32

    def lose(self, count: int, reason: str = "bound") -> None:
        """The first `count` frames are overwritten."""
        self._gone = self._at(count)
        self._reason = reason

    def damage(self, index: int) -> None:
        """One frame cannot be read any more."""
        self.frames[index] = self.frames[index]._replace(type=-1)

    def _at(self, index: int) -> Position:
        if index < len(self.frames):
            return Position(self.frames[index].first_row, self.accepted[index])
        return Position(self.row, self.total)

    def reader(self, row: int, accepted_before: int | None) -> "ListReader":
        return ListReader(self, row)

    def first_row(self) -> Position:
        return self._gone if self._gone.row else self._at(0)

    def row_at_time(self, time_ms: int) -> Position:
        index = next((i for i, f in enumerate(self.frames) if f.time_ms >= time_ms), len(self.frames))
        return max(self._at(index), self.first_row())

    def row_within(self, limit_bytes: int, oldest_ms: int) -> Position:
        index, size = len(self.frames), 0
        while index and self.frames[index - 1].time_ms >= oldest_ms and size <= limit_bytes:
            index -= 1
            size += len(self.frames[index].payload)
        return self._at(index + 1 if size > limit_bytes else index)


class ListReader:
    """A reader of a ListLog, with the ways of `journal.JournalReader`."""

    def __init__(self, log: ListLog, row: int) -> None:
        self._log = log
        self.row = row
        self._has_state = False

    @property
    def accepted_before(self) -> int:
        for frame, accepted in zip(self._log.frames, self._log.accepted, strict=True):
            if self.row < frame.end_row:
                return accepted + max(0, self.row - frame.first_row)
        return self._log.total

    def read(self, end_row: int, max_bytes: int) -> list[Frame]:
        log = self._log
        if self.row >= end_row:
            return []
        if self.row < log._gone.row:
            lost = log._gone.accepted_before - self.accepted_before
            self.row, self._has_state = log._gone.row, False
            if lost:
                raise RowGone(self.row, lost, log._reason)
        frames: list[Frame] = []
        size = 0
        for frame in log.frames:
            if frame.end_row <= self.row:
                if not self._has_state and frame.type in (RecordType.SCHEMA, RecordType.CONTAINER, RecordType.END):
                    frames.append(frame._replace(rows=0, is_copy=True))
                continue
            if frame.end_row > end_row or size >= max_bytes:
                break
            self._has_state = True
            if frame.type == -1:
                if any(not f.is_copy for f in frames):
                    break
                lost = frame.end_row - max(self.row, frame.first_row)
                self.row, self._has_state = frame.end_row, False
                raise RowGone(self.row, lost, "damage")
            frames.append(frame)
            size += len(frame.payload)
            self.row = frame.end_row
        return frames

    def close(self) -> None:
        pass


class SinkContract:
    """What every sink must do. Inherit, and give at least `make_sink` and `stored`."""

    is_idempotent: ClassVar[bool] = True
    """False for a sink that holds rows twice when given them twice (stdout); its docstring says so too."""
    keeps_order: ClassVar[bool] = False
    """True if `stored` gives samples in the order written."""
    is_lasting: ClassVar[bool] = True
    """False if a new sink object begins empty (memory)."""
    holds_tables: ClassVar[bool] = True
    holds_closing: ClassVar[bool] = True
    """False if the store cannot tell a closing sample from another."""
    max_batch: ClassVar[int] = 5000

    def make_sink(self, tmp_path: Path) -> Sink:
        """A new sink object; over the same store for the same path."""
        raise NotImplementedError

    def stored(self, sink: Sink) -> Stored:
        """All samples that the store of this open sink holds, in the form of `flat`."""
        raise NotImplementedError

    def stored_rows(self, sink: Sink) -> Iterable[int] | None:
        """Row numbers of events and gaps that the store holds; None if it holds none of them."""
        return None

    def make_unreachable_sink(self, tmp_path: Path) -> Sink | None:
        """A sink whose store does not answer; None if that cannot be."""
        return None

    def write(self, sink: Sink, *records: Record) -> None:
        """Gives the records that the sink takes, as its runner does."""
        sink.write([r for r in records if isinstance(r, sink.takes)])

    def check(self, sink: Sink, *records: Record, times: int = 1) -> None:
        """The store holds exactly the samples of the records, value by value."""
        expected = flat(records)
        for _, values in expected:
            if not self.holds_closing:
                values.pop("is_closing", None)
            if not self.holds_tables:
                for name in [n for n in values if "[" in n]:
                    del values[name]
        if not self.is_idempotent:
            expected *= times
        got = [(tuple(key), dict(values)) for key, values in self.stored(sink)]
        if not self.keeps_order:
            expected.sort(key=lambda entry: entry[0])
            got.sort(key=lambda entry: entry[0])
        assert [key for key, _ in got] == [key for key, _ in expected]
        for (key, values), (_, wanted) in zip(got, expected, strict=True):
            assert values == wanted, key

    @pytest.fixture
    def sink(self, tmp_path: Path) -> Iterator[Sink]:
        sink = self.make_sink(tmp_path)
        sink.open()
        yield sink
        sink.close()

    def test_takes_batches_and_known_types_only(self, tmp_path: Path) -> None:
        takes = self.make_sink(tmp_path).takes
        assert Batch in takes
        assert set(takes) <= {Batch, Schema, Container, Event, Gap, End}

    def test_close_is_safe_twice_and_without_open(self, tmp_path: Path) -> None:
        sink = self.make_sink(tmp_path)
        sink.close()
        sink.close()
        sink = self.make_sink(tmp_path)
        sink.open()
        sink.close()
        sink.close()

    def test_open_twice_is_harmless(self, tmp_path: Path) -> None:
        sink = self.make_sink(tmp_path)
        sink.open()
        sink.open()
        try:
            records = list(generate_records(2))
            self.write(sink, *records)
            self.check(sink, *records)
        finally:
            sink.close()

    def test_nothing_to_write_is_harmless(self, sink: Sink) -> None:
        sink.write([])
        sink.write([make_batch([], (make_container(),))])
        self.check(sink)

    def test_every_record_type_in_log_order(self, sink: Sink) -> None:
        records = list(generate_records(10))
        self.write(sink, *records)
        self.check(sink, *records)
        rows = self.stored_rows(sink)
        if rows is not None:
            kinds = tuple(t for t in (Event, Gap) if t in sink.takes)
            assert sorted(rows) == rows_of(r for r in records if isinstance(r, kinds))

    def test_one_record_at_a_time_gives_the_same(self, sink: Sink) -> None:
        records = list(generate_records(6))
        for record in records:
            self.write(sink, record)
        self.check(sink, *records)

    def test_records_are_left_as_they_were(self, sink: Sink) -> None:
        records = list(generate_records(4))
        before = copy.deepcopy(records)
        self.write(sink, *records)
        assert records == before

    def test_duplicates_are_harmless(self, sink: Sink) -> None:
        records = list(generate_records(10))
        self.write(sink, *records)
        self.write(sink, *records)
        self.check(sink, *records, times=2)
        rows = self.stored_rows(sink)
        if rows is not None and self.is_idempotent:
            assert len(list(rows)) == len(set(self.stored_rows(sink) or ()))

    def test_overlapping_repeat_is_harmless(self, sink: Sink) -> None:
        records = list(generate_records(8))
        head, whole = records[:-4], records
        self.write(sink, *head)
        self.write(sink, *whole)
        if self.is_idempotent:
            self.check(sink, *records)

    def test_rows_come_late(self, sink: Sink) -> None:
        records = list(generate_records(9))
        late = [r for r in records if isinstance(r, Batch)][2]
        on_time = [r for r in records if r is not late]
        self.write(sink, *on_time)
        self.write(sink, late)
        self.check(sink, *on_time, late)

    def test_restart_goes_on_in_the_same_store(self, tmp_path: Path) -> None:
        records = list(generate_records(10))
        half = len(records) // 2
        first = self.make_sink(tmp_path)
        first.open()
        self.write(first, *records[:half])
        first.close()
        second = self.make_sink(tmp_path)
        second.open()
        try:
            self.write(second, *records[half - 1 :])
            if not self.is_lasting:
                self.check(second, *records[half - 1 :])
            elif self.is_idempotent:
                self.check(second, *records)
        finally:
            second.close()

    def test_greatest_batch(self, sink: Sink) -> None:
        schema = make_schema()
        containers = [make_container(n) for n in range(1, 101)]
        each = self.max_batch // len(containers)
        samples = [
            make_sample(schema, c.number, START_MS + i * 1000, cpu_usage_ns=i, memory_usage_bytes=c.number * i)
            for i in range(each)
            for c in containers
        ]
        batch = make_batch(samples, containers, (schema,))
        self.write(sink, schema, *containers, batch)
        self.check(sink, batch)

    @pytest.mark.parametrize(
        "values",
        [
            {"cpu_usage_ns": 0, "memory_usage_bytes": 0},
            {"cpu_usage_ns": None, "memory_usage_bytes": 1},
            {"cpu_usage_ns": MAX_INT - 1, "memory_limit_bytes": UNLIMITED},
            {"cpu_usage_ns": 2**53 + 1},
            {"memory_usage_bytes": -1},
            {"load1": 0.1, "load5": 0.0, "load15": 1e300},
            {"uptime_seconds": 5e-324},
        ],
        ids=repr,
    )
    def test_values_come_back_exactly(self, sink: Sink, values: dict[str, Any]) -> None:
        schema = make_schema((*METRICS, "load1", "load5", "load15", "uptime_seconds"))
        host = make_container(1, "/")
        batch = make_batch([make_sample(schema, 1, START_MS, **values)], (host,), (schema,))
        self.write(sink, schema, host, batch)
        self.check(sink, batch)

    def test_closing_sample_holds_what_it_proves(self, sink: Sink) -> None:
        schema = make_schema()
        samples = [
            make_sample(schema, ts_ms=START_MS, cpu_usage_ns=5, memory_usage_bytes=10),
            make_sample(schema, ts_ms=START_MS + 8000, is_closing=True, cpu_usage_ns=5),
            make_sample(schema, ts_ms=START_MS + 9000, cpu_usage_ns=900, memory_usage_bytes=20),
        ]
        batch = make_batch(samples)
        self.write(sink, schema, make_container(), batch)
        self.check(sink, batch)

    def test_tables_keep_instances_apart(self, sink: Sink) -> None:
        schema = make_schema(tables=("network", "disk_io"))
        network = (("eth0", 1, 2, 3, 4, 5, 6, 7, 8), ("eth1", 9, None, 11, None, 13, 14, 15, 16))
        disk = (("/dev/sda", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9),)
        samples = [
            make_sample(schema, ts_ms=START_MS, tables=(network, disk), cpu_usage_ns=1),
            make_sample(schema, ts_ms=START_MS + 1, tables=(None, disk), cpu_usage_ns=2),
            make_sample(schema, ts_ms=START_MS + 2, tables=((), ()), cpu_usage_ns=3),
        ]
        batch = make_batch(samples, schemas=(schema,))
        self.write(sink, schema, make_container(), batch)
        self.check(sink, batch)

    def test_epochs_of_an_instance_are_apart(self, sink: Sink) -> None:
        schema = make_schema()
        first = make_container(1, "/a")
        second = make_container(2, "/a", epoch=1)
        samples = [make_sample(schema, n, START_MS, cpu_usage_ns=10 * n) for n in (1, 2)]
        batch = make_batch(samples, (first, second), (schema,))
        self.write(sink, schema, first, second, batch)
        self.check(sink, batch)

    def test_metrics_of_a_plugin_are_held(self, sink: Sink) -> None:
        schema = make_schema(fragment=PLUGIN_METRICS)
        samples = [
            make_sample(schema, ts_ms=START_MS, cpu_usage_ns=1, queue_depth=0, queue_age_seconds=0.25),
            make_sample(schema, ts_ms=START_MS + 1, cpu_usage_ns=2, queue_depth=None, queue_age_seconds=7.0),
        ]
        batch = make_batch(samples, schemas=(schema,))
        self.write(sink, schema, make_container(), batch)
        self.check(sink, batch)

    def test_schemas_may_change_within_a_batch(self, sink: Sink) -> None:
        old, new = make_schema(), make_schema(("pids_current", "cpu_usage_ns"), ())
        samples = [
            make_sample(old, ts_ms=START_MS, cpu_usage_ns=1),
            make_sample(new, ts_ms=START_MS + 1, cpu_usage_ns=2, pids_current=9),
        ]
        batch = make_batch(samples, schemas=(old, new))
        self.write(sink, old, new, make_container(), batch)
        self.check(sink, batch)

    @pytest.mark.parametrize(
        "odd",
        ["naïve ☃ 容器", 'a b,c=d"e\\', "new\nline\ttab", "x" * 300, "machine-qemu\\x2d1.scope", "trailing\\", "'; --"],
        ids=repr,
    )
    def test_odd_names(self, sink: Sink, odd: str) -> None:
        schema = make_schema()
        container = make_container(1, f"/{odd}", name=odd, image=odd, labels={odd: odd, "empty": ""}, aliases=(odd, ""))
        # The kernel refuses interfaces with white space; a store may not be able to hold one that ends in a backslash.
        interface = "".join(odd.split()).rstrip("\\")
        rows = ((interface, 1, 2, 3, 4, 5, 6, 7, 8),)
        batch = make_batch([make_sample(schema, tables=(rows,), cpu_usage_ns=1)], (container,), (schema,))
        self.write(sink, schema, container, batch)
        self.check(sink, batch)

    def test_names_that_come_late_or_never(self, sink: Sink) -> None:
        schema = make_schema()
        bare = make_container(1, name=None, image=None, labels={})
        named = msgspec.structs.replace(bare, name="web", valid_from_ms=START_MS + 500)
        early = make_batch([make_sample(schema, ts_ms=START_MS, cpu_usage_ns=1)], (bare,), (schema,))
        later = make_batch([make_sample(schema, ts_ms=START_MS + 1000, cpu_usage_ns=2)], (named,), (schema,), 3)
        self.write(sink, schema, bare, early, named, later)
        self.check(sink, early, later)

    def test_store_that_does_not_answer_may_be_tried_again(self, tmp_path: Path) -> None:
        sink = self.make_unreachable_sink(tmp_path)
        if sink is None:
            pytest.skip("this sink's store is always there")
        records = list(generate_records(2))
        try:
            with pytest.raises(RetryableError):
                sink.open()
                self.write(sink, *records)
        finally:
            sink.close()
