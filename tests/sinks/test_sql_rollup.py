"""Roll-ups of the SQL store, against a computation from scratch by the definition (promise R13)."""

import math
import random
import re
import time
import unittest.mock
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.sinks.databases import Postgresql, Sqlite, ask

from tidegauge.pipeline.buckets import Bucket, buckets
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.history import Bounds, Reading, RollupReader, Span, TooMuch
from tidegauge.pipeline.history_answer import answer
from tidegauge.pipeline.history_query import Question
from tidegauge.pipeline.records import MAX_INT, Batch, Container, End, Gap, Record, Sample
from tidegauge.pipeline.sketch import Sketch
from tidegauge.pipeline.testing import SOURCE, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql import retention
from tidegauge.sinks.sql.rollup_rows import partial_of
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
from tidegauge.sinks.sql.tables_rollup import FIVE_MINUTES_MS, HOUR_MS, RolledTable, rolled_tables

START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
NAMES = ("cpu_usage_ns", "memory_working_set_bytes", "memory_page_faults", "pids_current")
SCHEMA = make_schema(NAMES, ("network",))
TABLES = [t for t in rolled_tables() if t.table in ("sample", "network")]


def never() -> bool:
    return False


def roll_up(sink: SqlSink, now_ms: int) -> None:
    """Maintains until nothing is due. The first call still waits for rows to come, if there were any since the one before."""
    sink.maintain(now_ms, never)
    for _ in range(2000):
        sink.maintain(now_ms, never)
        if sink.maintenance_interval_s == retention.IDLE_S:
            return
    raise AssertionError("it never ends")


def stored(sink: SqlSink, table: RolledTable, width_ms: int) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """(instance of the container, epoch, time, interface) -> metric -> what the roll-up says of it."""
    label = "''" if table.label is None else f"r.{table.label}"
    columns = ", ".join(f"r.{name}" for name in table.value_names)
    out = {}
    whose = "c.instance, c.epoch, r.ts_ms"
    join = "JOIN container c ON c.id = r.container"
    for instance, epoch, ts_ms, of_it, *values in ask(
        sink, f"SELECT {whose}, {label}, {columns} FROM {table.name(width_ms)} r {join}"
    ):
        head, left = values[:3], iter(values[3:])
        partial = partial_of(head[2])
        row: dict[str, dict[str, Any]] = {}
        for column in table.columns:
            own = {part: next(left) for part in column.parts}
            own["count"], own["covered_ms"] = partial.get(column.metric.name, (head[0], head[1]))
            if own["last"] is not None:
                row[column.metric.name] = own
        out[instance, epoch, ts_ms, of_it] = row
    return out


def told(bucket: Bucket, parts: Sequence[str]) -> dict[str, Any]:
    own = {part: getattr(bucket, part) for part in parts}
    if "sketch" in own:
        assert bucket.sketch is not None
        own["sketch"] = bucket.sketch.encode() if bucket.sketch else None
    return own | {"count": bucket.count, "covered_ms": bucket.covered_ms}


def from_scratch(
    samples: Sequence[Sample], containers: Mapping[int, Container], gaps: Sequence[Gap], table: RolledTable, width_ms: int
) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """What `stored` is to say, by the definition alone, of records in any order."""
    out: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for number, c in containers.items():
        silence_ms = round(1000 * (c.max_interval_s + c.base_interval_s))
        spans: list[Span] = [(g.from_ms, g.to_ms) for g in gaps if g.container in (None, number)]
        own = sorted({s.ts_ms: s for s in samples if s.container == number}.values(), key=lambda s: s.ts_ms)
        if not own:
            continue
        start, end = own[0].ts_ms // HOUR_MS * HOUR_MS, (own[-1].ts_ms // HOUR_MS + 1) * HOUR_MS
        for place, column in enumerate(table.columns):
            name = column.metric.name
            if table.label is None:
                if name not in SCHEMA.names:
                    continue
                value = SCHEMA.names.index(name)
                by_label: dict[str, list[Reading]] = {"": [(s.ts_ms, s.is_closing, s.values[value]) for s in own]}
            else:
                by_label = {}
                for s in own:
                    for row in (s.tables[0] if s.tables else None) or ():
                        by_label.setdefault(str(row[0]), []).append((s.ts_ms, False, row[place + 1]))  # type: ignore[arg-type]
            for label, readings in by_label.items():
                kind = column.metric.kind
                for b in buckets(readings, kind, start, end, width_ms, spans, silence_ms, with_sketch=True):
                    out.setdefault((c.instance, c.epoch, b.start_ms, label), {})[name] = told(b, column.parts)
    return out


def check(sink: SqlSink, samples: Sequence[Sample], containers: Mapping[int, Container], gaps: Sequence[Gap]) -> None:
    for table in TABLES:
        for width_ms in (FIVE_MINUTES_MS, HOUR_MS):
            expected = from_scratch(samples, containers, gaps, table, width_ms)
            found = stored(sink, table, width_ms)
            assert found.keys() == expected.keys()
            for key, metrics in expected.items():
                assert found[key].keys() == metrics.keys()
                for name, told_of in metrics.items():
                    of_it = found[key][name]
                    if told_of.get("avg") is not None:
                        assert of_it.pop("avg") == pytest.approx(told_of.pop("avg"), rel=1e-12)
                    assert of_it == told_of, (key, name)


def a_history(seed: int, numbers: int = 3, hours: float = 1.6) -> tuple[list[Sample], dict[int, Container], list[Gap]]:
    """Containers, one of them a later epoch of another, that wake, sleep, pause and lose parts; gaps between."""
    rng = random.Random(seed)
    containers = {n: make_container(n, base_interval_s=10.0, max_interval_s=60.0) for n in range(1, numbers + 1)}
    containers[2] = make_container(2, containers[1].path, epoch=1, base_interval_s=10.0, max_interval_s=60.0)
    samples: list[Sample] = []
    gaps: list[Gap] = []
    for number in containers:
        ts_ms = START_MS + rng.randrange(400_000)
        end_ms = ts_ms + rng.randrange(1000, round(hours * HOUR_MS))
        cpu, faults, received = 10**12, 5, 10**6
        was_closing = True
        while ts_ms < end_ms:
            kind = rng.random()
            cpu += rng.choice((0, rng.randrange(10**10)))
            faults += rng.randrange(20)
            received += rng.randrange(10**6)
            if kind < 0.01:
                cpu, faults = 0, 0
            is_closing = not was_closing and kind > 0.9
            was_closing = is_closing
            network = () if is_closing or rng.random() < 0.1 else ((("eth0", received, 1, 2, None, 5, 6, 7, 8),),)
            memory = None if is_closing or rng.random() < 0.03 else rng.choice((4096, rng.randrange(1 << 40)))
            samples.append(
                make_sample(
                    SCHEMA,
                    number,
                    ts_ms,
                    network,
                    is_closing=is_closing,
                    cpu_usage_ns=cpu,
                    memory_working_set_bytes=memory,
                    memory_page_faults=None if is_closing else faults,
                    pids_current=None if is_closing else rng.choice((1, 1, 1, rng.randrange(9))),
                )
            )
            ts_ms += rng.choice((10_000, 10_000, 10_003, 60_000, 70_000, rng.randrange(1, 75_000)))
            if rng.random() < 0.02:
                ts_ms += rng.randrange(3 * FIVE_MINUTES_MS)
    for row in range(rng.randrange(4)):
        from_ms = START_MS + rng.randrange(round(hours * HOUR_MS))
        of = rng.choice((None, None, *containers))
        gaps.append(Gap(SOURCE, from_ms, from_ms + rng.randrange(200_000), "stall", of, None, row + 1))
    return samples, containers, gaps


def batches(samples: Sequence[Sample], containers: Mapping[int, Container], size: int) -> list[Batch]:
    return [
        make_batch(samples[i : i + size], containers.values(), (SCHEMA,), first_row=100 + i)
        for i in range(0, len(samples), size)
    ]


NOW_MS = START_MS + 10 * HOUR_MS
ORDERS = ("in order", "late", "replayed", "shuffled", "as it comes")


def live(open_sink: Callable[[], SqlSink], seed: int, order: str, size: int) -> None:
    """Writes a history in some order, with roll-ups made at any time between, and compares what stands there at the end.

    `as it comes`: the clock follows the samples, so that marks are remembered; a tenth of the rows is minutes late.
    """
    samples, containers, gaps = a_history(seed)
    rng = random.Random(seed + 1)
    in_time = sorted(samples, key=lambda s: s.ts_ms)
    records: list[Record] = list(batches(in_time, containers, size))
    if order == "late":
        late = [s for s in in_time if rng.random() < 0.1]
        records = [*batches([s for s in in_time if s not in late], containers, size), *batches(late, containers, 5)]
    elif order == "as it comes":
        in_time.sort(key=lambda s: s.ts_ms + (rng.random() < 0.1) * rng.randrange(4 * FIVE_MINUTES_MS))
        records = list(batches(in_time, containers, size))
    elif order == "replayed":
        records += rng.sample(records, len(records) // 2)
    elif order == "shuffled":
        rng.shuffle(in_time)
        records = list(batches(in_time, containers, size))
    for gap in gaps:
        records.insert(rng.randrange(len(records) + 1), gap)
    sink = open_sink()
    sink.write(list(containers.values()))
    now_ms = 0 if order == "as it comes" else NOW_MS
    for record in records:
        if isinstance(record, Batch):
            now_ms = max(now_ms, *(s.ts_ms for s in record.samples))
        with unittest.mock.patch("tidegauge.sinks.sql.rollup_marks.time.time", return_value=now_ms / 1000):
            sink.write([record])
        if order == "as it comes":
            for _ in range(rng.randrange(4)):
                sink.maintain(now_ms, rng.choice((never, lambda: True)))
        elif rng.random() < 0.2:
            # the clock may be anywhere: what was made too early has to be made again
            sink.maintain(START_MS + rng.randrange(4 * HOUR_MS), rng.choice((never, lambda: True)))
        if rng.random() < 0.02:
            sink.close()
            sink = open_sink()
            sink.open()
    roll_up(sink, NOW_MS)
    check(sink, samples, containers, gaps)
    assert ask(sink, "SELECT * FROM rollup_dirty") == []
    sink.close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.sampled_from(ORDERS), st.integers(5, 60))
@example(1, "in order", 40)
@example(2, "late", 7)
@example(3, "replayed", 20)
@example(4, "shuffled", 3)
@example(5, "as it comes", 5)
def test_rollups_are_what_a_computation_from_scratch_gives(seed: int, order: str, size: int) -> None:
    with TemporaryDirectory() as folder:

        def open_sink() -> SqlSink:
            return Sqlite().sink(Path(folder), retention_s=0, retention_bytes=0)

        live(open_sink, seed, order, size)


@pytest.mark.integration
@pytest.mark.parametrize(("seed", "order"), [(5, "late"), (6, "shuffled"), (7, "replayed"), (8, "as it comes")])
def test_rollups_on_postgresql_are_so_too(postgresql: Postgresql, tmp_path: Path, seed: int, order: str) -> None:
    def open_sink() -> SqlSink:
        return postgresql.sink(tmp_path, retention_s=0, retention_bytes=0)

    live(open_sink, seed, order, 40)


def test_rollups_are_read_back_as_the_buckets_of_the_definition(tmp_path: Path) -> None:
    samples, containers, _ = a_history(5, numbers=4, hours=3)
    sink = SqlSink(SqlConfig(state_dir=tmp_path, retention_s=0, retention_bytes=0))
    sink.open()
    sink.write([*containers.values(), *batches(sorted(samples, key=lambda s: s.ts_ms), containers, 200)])
    reader = sink.history()
    assert isinstance(reader, RollupReader)
    found = reader.containers(0, NOW_MS)
    first_ms = reader.unsettled_ms(found, FIVE_MINUTES_MS, 0, NOW_MS)
    assert first_ms is not None
    assert reader.unsettled_ms(found, HOUR_MS, 0, NOW_MS) == first_ms // HOUR_MS * HOUR_MS
    roll_up(sink, NOW_MS)
    assert reader.unsettled_ms(found, HOUR_MS, 0, NOW_MS) is None
    bounds = Bounds(10**6, time.monotonic() + 60)
    catalogue = Catalogue()
    for name in (*NAMES, "network_receive_bytes"):
        metric = catalogue[name]
        has_sketch = name not in ("memory_page_faults", "pids_current")
        kept = reader.kept(metric)
        for width_ms in (FIVE_MINUTES_MS, HOUR_MS):
            told_of = reader.rolled(found, metric, width_ms, 0, NOW_MS, bounds, with_sketch=has_sketch)
            assert kept[width_ms].has_sketch == has_sketch
            assert kept[width_ms].oldest_ms == min(b[0].start_ms for i in told_of.values() for b in i.values())
            raw = reader.series(found, metric, 0, NOW_MS, bounds)
            for c in found:
                for instance, readings in raw[c.key].items():
                    own = buckets(
                        readings,
                        metric.kind,
                        *(START_MS, START_MS + 5 * HOUR_MS, width_ms),
                        silence_ms=c.silence_ms,
                        with_sketch=has_sketch,
                    )
                    shown = [
                        (b.start_ms, b.end_ms, b.count, b.covered_ms, b.last, b.min, b.max, b.increase, b.sketch) for b in own
                    ]
                    buckets_of = told_of[c.key][instance]
                    assert [
                        (b.start_ms, b.end_ms, b.count, b.covered_ms, b.last, b.min, b.max, b.increase, b.sketch)
                        for b in buckets_of
                    ] == shown
                    for one, other in zip(buckets_of, own, strict=True):
                        assert (one.avg is None) == (other.avg is None)
                        assert (one.avg or 0) == pytest.approx(other.avg or 0, rel=1e-12)
                        assert one.per_s == other.per_s
    assert reader.kept(catalogue["tcp_established"]) == {}
    with pytest.raises(TooMuch, match="more than 3 rows"):
        reader.rolled(found, catalogue["cpu_usage_ns"], FIVE_MINUTES_MS, 0, NOW_MS, bounds._replace(rows=3))
    sink.close()
    reader.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_filesystems_of_a_host_that_is_read_each_second_are_known(tmp_path: Path, seed: int) -> None:
    """They stand in a sample each ten seconds or so, as their collector answers; the host may be silent for two."""
    schema = make_schema(("load1",), ("filesystem",))
    c = make_container(1, "/", base_interval_s=1.0, max_interval_s=1.0)
    lag = random.Random(seed)
    samples, held, read_s = [], [], 0
    for second in range(4000):
        row = None
        if second >= read_s:
            read_s = second + lag.choice((9, 10, 10, 11, 14, 40))
            held.append((second * 1000, (10 << 20) + second))
            row = (("/dev/vda", 100 << 20, held[-1][1], None, None, None),)
        samples.append(Sample(1, START_MS + second * 1000, schema.id, (0.5,), (row,)))
    sink = SqlSink(SqlConfig(state_dir=tmp_path, retention_s=0, retention_bytes=0))
    for first in range(0, len(samples), 300):  # as they come: roll-ups are made meanwhile
        part = samples[first : first + 300]
        sink.write([make_batch(part, (c,), (schema,))])
        roll_up(sink, part[-1].ts_ms)
    roll_up(sink, NOW_MS)

    def mean(from_ms: int, to_ms: int) -> float:
        spans = zip(held, [*held[1:], (held[-1][0], 0)], strict=True)
        known = [(value, max(0, min(until, to_ms) - max(at, from_ms))) for (at, value), (until, _) in spans]
        return sum(value * ms for value, ms in known) / sum(ms for _, ms in known)

    reader = sink.history()
    for resolution, width_ms in (("raw", FIVE_MINUTES_MS), ("5m", FIVE_MINUTES_MS), ("1h", HOUR_MS)):
        question = Question(
            metric="filesystem_usage_bytes",
            since_ms=START_MS,
            until_ms=START_MS + 2 * HOUR_MS,
            bucket_ms=width_ms,
            resolution=resolution,
        )
        (found,) = answer(reader, question, Bounds(10**6, time.monotonic() + 60), NOW_MS).series
        whole = [p for p in found.points if p.ts_ms + width_ms <= START_MS + held[-1][0]]
        assert len(whole) == (13 if width_ms == FIVE_MINUTES_MS else 1)
        for point in whole:
            at_ms = point.ts_ms - START_MS
            assert (point.coverage, point.value) == (1.0, pytest.approx(mean(at_ms, at_ms + width_ms), rel=1e-12))
        assert found.value == pytest.approx(mean(0, held[-1][0]), rel=1e-12)
    sink.close()
    reader.close()


def test_the_statement_of_the_page_gives_cores_and_mebibytes_by_hour(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rollups.md").read_text()
    (statement,) = re.findall(r"```sql\n(.*?);\n```", page, re.DOTALL)
    sink = Sqlite().sink(tmp_path, retention_s=0, retention_bytes=0)
    c = make_container(1, base_interval_s=60.0, name="web")
    samples = [
        make_sample(
            SCHEMA, 1, START_MS + i * 60_000, cpu_usage_ns=i * 30_000_000_000, memory_working_set_bytes=(1 + i % 2) << 20
        )
        for i in range(61)
    ]
    sink.write([make_batch(samples, (c,), (SCHEMA,))])
    roll_up(sink, NOW_MS)
    now = f"{(START_MS + 2 * HOUR_MS) // 1000}"
    found = ask(sink, statement.replace("unixepoch('now', '-30 days')", f"({now} - 30 * 86400)"))
    assert found[0] == ("web", "2023-11-14 22:00:00", 0.5, 1.5, 2.0)
    sink.close()


def test_a_counter_that_passes_64_bits_by_falling_stops_no_rollup(tmp_path: Path) -> None:
    sink = Sqlite().sink(tmp_path, retention_s=0, retention_bytes=0)
    readings = [0, MAX_INT, 0, MAX_INT, 0, 5]
    samples = [
        make_sample(SCHEMA, 1, START_MS + i * 10_000, cpu_usage_ns=value, memory_working_set_bytes=-1)
        for i, value in enumerate(readings)
    ]
    sink.write([make_batch(samples, schemas=(SCHEMA,))])
    roll_up(sink, NOW_MS)
    sql = "SELECT cpu_usage_ns_increase, memory_working_set_bytes_max, memory_working_set_bytes_sketch FROM sample_{}"
    zero = Sketch()
    zero.add(0, 50_000)
    for suffix in ("5m", "1h"):
        assert ask(sink, sql.format(suffix)) == [(MAX_INT, -1, zero.encode())]
    sink.close()


def test_values_that_no_column_should_hold_cost_their_own_series_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sqlite().sink(tmp_path, retention_s=0, retention_bytes=0)
    samples = [
        make_sample(SCHEMA, n, START_MS + i * 10_000, cpu_usage_ns=i * 10**9, memory_working_set_bytes=5)
        for i in range(4)
        for n in (1, 2, 3)
    ]
    sink.write([make_batch(samples, schemas=(SCHEMA,))])
    of = "WHERE container = (SELECT id FROM container WHERE number = {}) AND ts_ms = {}"
    ask(sink, f"UPDATE sample SET cpu_usage_ns = 'many' {of.format(1, START_MS + 10_000)}")
    ask(sink, f"UPDATE sample SET memory_working_set_bytes = 9e999 {of.format(2, START_MS + 10_000)}")
    roll_up(sink, NOW_MS)
    found = (
        "SELECT number, memory_working_set_bytes_max, cpu_usage_ns_increase FROM sample_{} JOIN container c ON c.id = container"
    )
    for suffix in ("5m", "1h"):
        assert ask(sink, found.format(suffix) + " ORDER BY 1") == [(2, math.inf, 3 * 10**9), (3, 5, 3 * 10**9)]
    assert ask(sink, "SELECT count(*) FROM rollup_dirty") == [(0,)]
    assert "no roll-up of 300 s" in caplog.text
    ask(sink, f"UPDATE sample_5m SET memory_working_set_bytes_sketch = x'99' {of.format(3, START_MS)}")
    ask(sink, "INSERT INTO rollup_dirty SELECT 3600000, ts_ms, container, 1 FROM sample_1h")
    roll_up(sink, NOW_MS)
    assert ask(sink, found.format("1h")) == [(2, math.inf, 3 * 10**9)]
    assert "not a sketch" in caplog.text
    sink.close()


def test_of_containers_that_ended_nothing_stays_in_memory(tmp_path: Path) -> None:
    sink = SqlSink(SqlConfig(url=f"sqlite:///{tmp_path / 'store.db'}"))
    for number in range(1, 50):
        sink.write([make_batch([make_sample(SCHEMA, number, START_MS)], schemas=(SCHEMA,)), End(number, START_MS + 1, number)])
    assert sink._store is not None
    assert not sink._store.live_ids()
    assert not sink._store.marks._open
    assert not sink._store.marks._silences
    sink.close()
