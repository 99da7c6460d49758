"""`regular_s`: the grid between two samples, and its state read back from a real store."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers import Influxd, VictoriaMetrics, need_victoria_metrics

from tidegauge.pipeline.errors import RetryableError
from tidegauge.pipeline.records import Batch, Container, Gap, Record, Sample
from tidegauge.pipeline.testing import SOURCE, START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.influxdb_grid import Grid

SCHEMA = make_schema(("cpu_usage_ns", "memory_usage_bytes", "uptime_seconds"), ("percpu", "network"))
T0 = START_MS
assert T0 % 10_000 == 0


def sample(at_s: float, cpu: int | None = None, *, memory: int | None = None, closing: bool = False, **more: Any) -> Sample:
    ts_ms = T0 + round(at_s * 1000)
    return make_sample(SCHEMA, ts_ms=ts_ms, cpu_usage_ns=cpu, memory_usage_bytes=memory, is_closing=closing, **more)


def fill(grid: Grid, *samples: Sample, container: Container | None = None) -> list[tuple[float, int | None, int | None]]:
    """(seconds, cpu, memory) of the grid points before each of the samples."""
    points = [p for s in samples for _, p in grid.before(container or make_container(), SCHEMA, s)]
    assert not any(p.is_closing for p in points)
    return [((p.ts_ms - T0) / 1000, p.values[0], p.values[1]) for p in points]  # type: ignore[misc]


def test_values_are_held_at_multiples_of_the_step() -> None:
    assert fill(Grid(10), sample(3, 5, memory=7), sample(34, 6)) == [(10, 5, 7), (20, 5, 7), (30, 5, 7)]


def test_a_sample_on_the_grid_is_not_repeated() -> None:
    assert fill(Grid(10), sample(10, 5), sample(20, 6), sample(30.001, 7)) == [(30, 6, None)]


def test_what_a_closing_sample_proves_is_laid_over_what_holds() -> None:
    points = fill(Grid(10), sample(0, 5, memory=7), sample(31, 6, closing=True), sample(45, 9))
    assert points == [(10, 5, 7), (20, 5, 7), (30, 5, 7), (40, 6, 7)]


def test_a_closing_sample_holds_tables_instance_by_instance() -> None:
    grid = Grid(10)
    first = sample(0, 5, tables=((("0", 1), ("1", 2)), (("eth0", *range(8)),)))
    closing = sample(11, 5, closing=True, tables=((("1", 3),), None))
    assert fill(grid, first, closing) == [(10, 5, None)]
    ((_, point),) = grid.before(make_container(), SCHEMA, sample(21, 6))
    assert point.tables == ((("0", 1), ("1", 3)), (("eth0", *range(8)),))


def test_a_value_that_is_unknown_is_not_held() -> None:
    assert fill(Grid(10), sample(0, 5, memory=7), sample(11, 6), sample(21, 6))[-1] == (20, 6, None)


def test_silence_longer_than_the_maximum_interval_is_unknown() -> None:
    assert len(fill(Grid(1), sample(0, 5), sample(61, 6))) == 60
    assert fill(Grid(1), sample(0, 5), sample(61.001, 6)) == []
    container = make_container(max_interval_s=5.0, base_interval_s=0.5)
    assert fill(Grid(1), sample(0, 5), sample(6, 6), container=container) == []


@pytest.mark.parametrize("number", [None, 1])
def test_nothing_is_held_across_a_gap(number: int | None) -> None:
    grid = Grid(10)
    fill(grid, sample(0, 5))
    grid.gap(Gap(SOURCE, T0 + 2000, T0 + 15_000, "agent_down", number))
    assert fill(grid, sample(25, 6), sample(35, 7)) == [(30, 6, None)]


def test_gaps_of_others_and_of_before_do_not_matter() -> None:
    grid = Grid(10)
    fill(grid, sample(0, 5))
    grid.gap(Gap(SOURCE, T0 + 2000, T0 + 5000, "stall", 2))
    grid.gap(Gap("another source", T0 + 2000, T0 + 5000, "stall"))
    grid.gap(Gap(SOURCE, T0 - 2000, T0, "stall"))
    assert fill(grid, sample(15, 6)) == [(10, 5, None)]


def test_rows_that_come_late_fill_nothing() -> None:
    grid = Grid(10)
    assert fill(grid, sample(5, 1), sample(25, 2), sample(15, 9), sample(35, 3)) == [
        (10, 1, None),
        (20, 1, None),
        (30, 2, None),
    ]


@given(st.lists(st.tuples(st.integers(0, 300_000), st.booleans()), max_size=20), st.sampled_from([0.1, 1, 7, 60]))
def test_points_lie_on_the_grid_between_two_near_samples(rows: list[tuple[int, bool]], step_s: float) -> None:
    grid = Grid(step_s)
    newest = -(10**15)
    is_known = False
    for ms, closing in rows:
        s = sample(ms / 1000, ms, closing=closing)
        points = [p.ts_ms for _, p in grid.before(make_container(), SCHEMA, s)]
        expected = []
        if is_known and newest < s.ts_ms <= newest + 61_000:
            expected = [t for t in range(newest + 1, s.ts_ms) if t % round(step_s * 1000) == 0]
        assert points == expected
        if s.ts_ms > newest:
            # A closing sample without one before it tells nothing of what it does not hold.
            newest, is_known = s.ts_ms, is_known or not closing


def test_a_write_that_failed_gives_the_same_points_again() -> None:
    grid = Grid(10)
    fill(grid, sample(0, 5))
    grid.commit()
    first = fill(grid, sample(15, 6), sample(25, 7))
    grid.rollback()
    assert fill(grid, sample(15, 6), sample(25, 7)) == first != []


_numbers = itertools.count()


@pytest.fixture
def database() -> str:
    return f"grid{next(_numbers)}"


def write(server: Influxd, database: str, *records: Record) -> InfluxdbSink:
    """By a sink that was just opened, as after a restart."""
    sink = InfluxdbSink(InfluxdbConfig(url=server.url, database=database, regular_s=10))
    sink.open()
    sink.write(records)
    sink.close()
    return sink


def batch(*samples: Sample) -> Batch:
    return make_batch(samples, schemas=(SCHEMA,))


def stored(
    server: Influxd, database: str, field: str = "cpu_usage_ns", measurement: str = "container"
) -> list[tuple[float, Any]]:
    rows = server.query(f"SELECT {field} FROM {measurement}", database)
    return sorted(((r["time"] - T0) / 1000, r[field]) for r in rows)


@pytest.mark.integration
def test_after_a_restart_it_goes_on_from_what_the_store_holds(influxd: Influxd, database: str) -> None:
    tables = ((("0", 4), ("1", 5)), (("eth0", *range(8)),))
    write(influxd, database, batch(sample(0, 5, memory=7, uptime_seconds=1.0, tables=tables), sample(12, 6, closing=True)))
    later = batch(sample(35, 9, memory=8, uptime_seconds=2.0))
    write(influxd, database, later)
    assert stored(influxd, database) == [(0, 5), (10, 5), (12, 6), (20, 6), (30, 6), (35, 9)]
    assert stored(influxd, database, "memory_usage_bytes") == [(0, 7), (10, 7), (20, 7), (30, 7), (35, 8)]
    assert stored(influxd, database, "uptime_seconds") == [(0, 1), (10, 1), (20, 1), (30, 1), (35, 2)]
    for field, measurement, value in (("percpu_usage_ns", "percpu", 4), ("network_transmit_dropped", "network", 7)):
        assert (30, value) in stored(influxd, database, field, measurement)
    write(influxd, database, later)
    assert len(stored(influxd, database)) == 6


@pytest.mark.integration
def test_a_repeat_after_a_restart_sends_the_same(influxd: Influxd, database: str) -> None:
    """The predecessor of the first row given again is found, though newer rows are stored."""
    records = [batch(sample(3, 1)), batch(sample(15, 2), sample(26, 3))]
    write(influxd, database, *records)
    whole = stored(influxd, database)
    for at_s in (10, 20):
        influxd.query(f"DELETE FROM container WHERE time = {T0 + at_s * 1000}ms", database)
    write(influxd, database, records[1])
    assert stored(influxd, database) == whole == [(3, 1), (10, 1), (15, 2), (20, 2), (26, 3)]


@pytest.mark.integration
@pytest.mark.parametrize("number", [None, 1, 2])
def test_a_gap_in_the_store_is_respected_after_a_restart(influxd: Influxd, database: str, number: int | None) -> None:
    write(influxd, database, batch(sample(0, 5)), Gap(SOURCE, T0 + 1000, T0 + 14_000, "agent_down", number, row=9))
    write(influxd, database, batch(sample(25, 6)))
    held = [(10, 5), (20, 5)] if number == 2 else []
    assert stored(influxd, database) == [(0, 5), *held, (25, 6)]


@pytest.mark.integration
def test_a_gap_among_the_records_is_respected(influxd: Influxd, database: str) -> None:
    gap = Gap(SOURCE, T0 + 1000, T0 + 14_000, "stall", row=9)
    write(influxd, database, batch(sample(0, 5)), gap, batch(sample(25, 6), sample(31, 7)))
    assert stored(influxd, database) == [(0, 5), (25, 6), (30, 6), (31, 7)]


@pytest.mark.integration
def test_other_epochs_and_instances_are_not_held(influxd: Influxd, database: str) -> None:
    write(influxd, database, batch(sample(0, 5)))
    old = make_container()
    for other in (msgspec.structs.replace(old, number=2, epoch=1), make_container(2)):
        moved = msgspec.structs.replace(sample(25, 6), container=2)
        write(influxd, database, make_batch([moved], (other,), (SCHEMA,)))
    assert stored(influxd, database) == [(0, 5), (25, 6), (25, 6)]


@pytest.mark.integration
def test_many_containers_are_restored(influxd: Influxd, database: str) -> None:
    containers = [make_container(n, f"/c{n}", instance=f"{n:016x}") for n in range(1, 451)]

    def tick(at_s: float) -> Batch:
        samples = [msgspec.structs.replace(sample(at_s, c.number), container=c.number) for c in containers]
        return make_batch(samples, containers, (SCHEMA,))

    write(influxd, database, tick(5))
    write(influxd, database, tick(15))
    assert stored(influxd, database) == [(at, n) for at in (5, 10, 15) for n in range(1, 451)]


@pytest.mark.integration
def test_a_store_that_is_away_while_reading_back_is_tried_again(influxd: Influxd, database: str) -> None:
    sink = InfluxdbSink(InfluxdbConfig(url="http://127.0.0.1:9", version="1", create=False, regular_s=10))
    sink.open()
    with pytest.raises(RetryableError, match="reading back from"):
        sink.write([batch(sample(0, 5))])
    sink.close()


@pytest.mark.integration
def test_victoria_metrics_gets_the_grid_of_this_run(tmp_path: Any) -> None:
    need_victoria_metrics()
    with VictoriaMetrics(tmp_path / "victoria") as server:
        sink = InfluxdbSink(InfluxdbConfig(url=server.url, regular_s=10))
        sink.open()
        sink.write([batch(sample(0, 5))])
        sink.write([batch(sample(25, 6))])
        sink.close()
        (series,) = server.export("container_cpu_usage_ns")
        assert series["values"] == [5, 5, 5, 6]
