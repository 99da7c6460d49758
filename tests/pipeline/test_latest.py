"""The newest known values of a container: what is carried, what is replaced, what ends."""

from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.latest import KeepsLatest, Latest, merged
from tidegauge.pipeline.records import Batch, Container, End, Sample, TableRows, Value
from tidegauge.pipeline.testing.records import START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.memory import MemoryConfig, MemorySink

SCHEMA = make_schema(("cpu_usage_ns", "memory_usage_bytes"), ("network", "percpu"))
VALUES = st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9))
ROWS = st.none() | st.just(()) | st.tuples(st.tuples(st.just("eth0"), st.integers(0, 9)))


@given(st.lists(st.tuples(VALUES, st.just(()) | st.tuples(ROWS, ROWS)), min_size=1, max_size=8))
def test_each_value_and_each_table_is_the_last_that_was_read(
    samples: list[tuple[tuple[Value, Value], tuple[TableRows | None, ...]]],
) -> None:
    latest: Latest | None = None
    for i, (values, tables) in enumerate(samples):
        latest = merged(latest, Sample(1, START_MS + i, SCHEMA.id, values, tables), SCHEMA)
    assert latest is not None
    assert latest.ts_ms == START_MS + len(samples) - 1
    for place in range(2):
        read = [values[place] for values, _ in samples if values[place] is not None]
        assert latest.values[place] == (read[-1] if read else None)
        rows = [tables[place] for _, tables in samples if tables and tables[place] is not None]
        assert (latest.tables[place] if latest.tables else None) == (rows[-1] if rows else None)


def test_a_row_without_a_value_is_there_and_was_not_read() -> None:
    schema = make_schema(("cpu_usage_ns",), ("app",))
    none = (None,) * 7

    def row(name: str, value: float | None) -> tuple[Value, ...]:
        return (name, value, *none[1:])

    latest: Latest | None = None
    shown = []
    steps = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": None}, {"a": None, "c": None}, {"a": None, "b": 4.0}]
    for i, step in enumerate(steps):
        rows = tuple(row(name, value) for name, value in step.items())
        latest = merged(latest, make_sample(schema, ts_ms=START_MS + i, tables=(rows,), cpu_usage_ns=1), schema)
        shown.append({r[0]: r[1] for r in latest.tables[0] or ()})
    assert shown == [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}, {"a": 3.0, "c": None}, {"a": 3.0, "b": 4.0}]


def test_values_are_carried_by_name_when_collectors_join() -> None:
    before = merged(None, make_sample(SCHEMA, tables=((("eth0", 1),), None), cpu_usage_ns=1, memory_usage_bytes=2), SCHEMA)
    wider = make_schema(("memory_usage_bytes", "pids_current", "cpu_usage_ns"), ("percpu", "network"))
    latest = merged(before, make_sample(wider, ts_ms=START_MS + 1, pids_current=3), wider)
    assert latest.values == (2, 3, 1)
    assert latest.tables == (None, (("eth0", 1),))
    assert before.values == (1, 2)


def _sink(*records: Batch | Container | End) -> MemorySink:
    sink = MemorySink(MemoryConfig())
    sink.write(records)
    return sink


def _batch(number: int, row: int, *, closing: bool = False, ts_ms: int = START_MS, **values: Value) -> Batch:
    sample = make_sample(SCHEMA, number, ts_ms, is_closing=closing, **values)
    return make_batch([sample], [make_container(number)], [SCHEMA], row)


def test_the_memory_sink_tells_the_newest_values_of_those_that_live() -> None:
    sink = _sink(
        make_container(1, row=1),
        make_container(2, row=2),
        make_container(3, row=3),
        _batch(1, 4, cpu_usage_ns=5, memory_usage_bytes=6),
        _batch(1, 5, ts_ms=START_MS + 9, closing=True, cpu_usage_ns=7),
        _batch(2, 6, cpu_usage_ns=8),
    )
    assert isinstance(sink, KeepsLatest)
    found = {c.number: latest for c, latest in sink.latest()}
    one, two = found[1], found[2]
    assert one is not None
    assert two is not None
    assert (one.values, one.ts_ms, two.values, found[3]) == ((7, 6), START_MS + 9, (8, None), None)
    before = sink.generation
    sink.write([End(1, START_MS + 10, 7)])
    assert sink.generation != before
    assert [c.number for c, _ in sink.latest()] == [2, 3]
    sink.write([_batch(1, 8, ts_ms=START_MS + 11, cpu_usage_ns=9)])
    assert [c.number for c, _ in sink.latest()] == [2, 3]
    sink.write([make_container(1, row=9)])
    assert {c.number: latest for c, latest in sink.latest()}[1] is None


def test_a_sample_that_comes_late_does_not_change_what_is_newest() -> None:
    sink = _sink(make_container(1, row=1), _batch(1, 2, ts_ms=START_MS + 5, cpu_usage_ns=5), _batch(1, 3, cpu_usage_ns=4))
    ((_, latest),) = sink.latest()
    assert latest is not None
    assert latest.values == (5, None)


def test_values_outlive_the_samples_that_the_sink_lets_go() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=1))
    sink.write([make_container(1, row=1), make_container(2, row=2), _batch(1, 3, cpu_usage_ns=5)])
    sink.write([_batch(2, 4, ts_ms=START_MS + 60_000, cpu_usage_ns=6)])
    assert sink.samples(make_container(1).instance) == []
    assert [latest.values[0] for _, latest in sink.latest() if latest is not None] == [5, 6]


def test_a_number_that_stands_for_another_container_begins_anew() -> None:
    sink = _sink(make_container(1, row=1), _batch(1, 2, cpu_usage_ns=5), make_container(1, epoch=1, row=3))
    ((container, latest),) = sink.latest()
    assert (container.epoch, latest) == (1, None)
