"""The contract of sinks as a suite that tests inherit."""

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from tidegauge.pipeline.errors import RetryableError
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import MAX_INT, UNLIMITED, Batch, Container, End, Event, Gap, Record, Schema
from tidegauge.pipeline.testing.records import (
    METRICS,
    PLUGIN_METRICS,
    START_MS,
    Stored,
    flat,
    generate_records,
    make_batch,
    make_container,
    make_sample,
    make_schema,
    rows_of,
)


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
