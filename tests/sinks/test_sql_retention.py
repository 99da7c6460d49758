"""Retention of the SQL sink: by age, by bytes, in slices, never of what lives."""

import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tidegauge.pipeline.records import Container, End, Event, Gap, Record
from tidegauge.pipeline.testing import SOURCE, START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql import retention
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

HOUR_MS = 3_600_000
NETWORK = (("eth0", 1, 2, 3, 4, 5, 6, 7, 8),)


def ask(sink: SqlSink, sql: str) -> list[tuple[Any, ...]]:
    conn = sqlite3.connect(sink.path)
    try:
        return conn.execute(sql).fetchall()
    finally:
        conn.close()


def fill(sink: SqlSink, ticks: int, step_ms: int, containers: int = 2) -> None:
    schema = make_schema()
    for first in range(0, ticks, 200):
        samples = [
            make_sample(schema, n, START_MS + tick * step_ms, (NETWORK,), cpu_usage_ns=tick << 40, memory_usage_bytes=tick)
            for tick in range(first, min(first + 200, ticks))
            for n in range(1, containers + 1)
        ]
        sink.write([make_batch(samples, schemas=(schema,))])


def open_sink(tmp_path: Path, **options: Any) -> SqlSink:
    sink = SqlSink(SqlConfig(state_dir=tmp_path, **options))
    sink.open()
    return sink


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_ROWS", 50)


def maintain_to_the_end(sink: SqlSink, now_ms: int) -> None:
    sink.maintain(now_ms, never)
    for _ in range(5000):
        sink.maintain(now_ms, never)
        if sink.maintenance_interval_s == retention.IDLE_S:
            return
    raise AssertionError("it never ends")


def pages_in_use(sink: SqlSink) -> int:
    (pages, free, size) = (ask(sink, f"PRAGMA {name}")[0][0] for name in ("page_count", "freelist_count", "page_size"))
    return int((pages - free) * size)


def never() -> bool:
    return False


@pytest.mark.usefixtures("small_slices")
def test_rows_older_than_the_age_go_and_no_other(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, retention_s=3600.0)
    fill(sink, ticks=600, step_ms=60_000)
    now_ms = START_MS + 599 * 60_000
    maintain_to_the_end(sink, now_ms)
    for table in ("sample", "sample_network"):
        assert ask(sink, f"SELECT min(ts_ms), max(ts_ms), count(*) FROM {table}") == [(now_ms - HOUR_MS, now_ms, 122)]
    sink.maintain(now_ms, never)
    assert ask(sink, "SELECT count(*) FROM sample") == [(122,)]
    sink.close()


def test_nothing_is_deleted_without_bounds(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, retention_s=0, retention_bytes=0)
    fill(sink, ticks=200, step_ms=60_000)
    sink.write([Event(START_MS, "oom", 1, {}, 9), End(2, START_MS, 10)])
    sink.maintain(START_MS + 10**12, never)
    assert ask(sink, "SELECT count(*) FROM sample UNION ALL SELECT count(*) FROM event") == [(400,), (1,)]
    assert ask(sink, "SELECT count(*) FROM container") == [(2,)]
    sink.close()


@pytest.mark.usefixtures("small_slices")
def test_no_slice_is_larger_than_it_may_be(tmp_path: Path) -> None:
    """Between two looks at the clock at most one slice of each table goes, and being told to stop ends the call."""
    now_ms = START_MS + 399 * 60_000
    sink = open_sink(tmp_path, retention_s=0)
    fill(sink, ticks=400, step_ms=60_000)
    maintain_to_the_end(sink, now_ms)
    sink.close()
    sink = open_sink(tmp_path, retention_s=3600.0)
    left = [800]

    def stop_at_once() -> bool:
        left.append(ask(sink, "SELECT count(*) FROM sample")[0][0])
        return True

    for _ in range(40):
        sink.maintain(now_ms, stop_at_once)
    deleted = [a - b for a, b in pairwise(left)]
    assert left[-1] == 122
    assert max(deleted) <= 50
    assert sum(1 for d in deleted if d) >= 13
    assert sink.maintenance_interval_s == retention.IDLE_S
    sink.close()


@pytest.mark.usefixtures("small_slices")
def test_rows_of_one_time_go_together_even_if_they_are_many(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, retention_s=1.0)
    fill(sink, ticks=1, step_ms=0, containers=200)
    maintain_to_the_end(sink, START_MS + HOUR_MS)
    assert ask(sink, "SELECT count(*) FROM sample") == [(0,)]
    sink.close()


@pytest.mark.usefixtures("small_slices")
def test_oldest_go_when_the_pages_in_use_are_too_many(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, retention_s=0, retention_bytes=1_000_000)
    fill(sink, ticks=4000, step_ms=1000)
    maintain_to_the_end(sink, START_MS + 10 * HOUR_MS)
    assert 700_000 < pages_in_use(sink) <= 1_000_000
    ((oldest, newest, count),) = ask(sink, "SELECT min(ts_ms), max(ts_ms), count(*) FROM sample")
    assert newest == START_MS + 3999 * 1000
    assert count == 2 * ((newest - oldest) // 1000 + 1), "a hole, or other than the oldest went"
    pages = 0
    for more in range(1, 5):
        fill(sink, ticks=4000, step_ms=1000 + more)
        maintain_to_the_end(sink, START_MS + 10 * HOUR_MS)
        pages = pages or ask(sink, "PRAGMA page_count")[0][0]
    assert ask(sink, "PRAGMA page_count")[0][0] < 1.2 * pages, "freed pages are not used again"
    sink.close()


def test_size_bound_below_the_empty_schema_ends(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, retention_s=0, retention_bytes=1)
    fill(sink, ticks=20, step_ms=1000)
    maintain_to_the_end(sink, START_MS + HOUR_MS)
    assert ask(sink, "SELECT count(*) FROM sample") == [(0,)]
    assert sink.maintenance_interval_s == retention.IDLE_S
    sink.close()


def test_events_gaps_and_containers_go_with_their_samples(tmp_path: Path) -> None:
    old, ended, live, gone, late = (make_container(n) for n in (1, 2, 3, 4, 5))
    now_ms = START_MS + 10 * HOUR_MS
    schema = make_schema()

    def sample(c: Container, ts_ms: int) -> Record:
        return make_batch([make_sample(schema, c.number, ts_ms, cpu_usage_ns=1)], (c,), (schema,))

    ages = {"retention_s": 3600.0, "rollup_5m_retention_s": 3600.0, "rollup_1h_retention_s": 3600.0}
    first = open_sink(tmp_path, **ages)
    first.write([gone, sample(gone, START_MS)])
    first.close()
    sink = open_sink(tmp_path, **ages)
    sink.write([old, ended, live, late, *(sample(c, START_MS) for c in (old, ended, live, late)), End(1, START_MS + 1, 50)])
    sink.write([End(5, now_ms, 49)])
    sink.write([sample(ended, now_ms - 10), End(2, now_ms, 51)])
    sink.write([Event(START_MS, "oom", 1, {}, 60), Event(now_ms, "oom", 3, {}, 61)])
    sink.write(
        [Gap(SOURCE, START_MS, START_MS + 5, "stall", None, None, 70), Gap(SOURCE, START_MS, now_ms, "stall", None, None, 71)]
    )
    maintain_to_the_end(sink, now_ms)
    assert ask(sink, "SELECT number FROM container ORDER BY 1") == [(2,), (3,), (5,)]
    for table in ("container_metadata", "container_span"):
        assert ask(sink, f"SELECT count(*) FROM {table}") == [(3,)]
    assert ask(sink, "SELECT row FROM event UNION ALL SELECT row FROM gap ORDER BY 1") == [(61,), (71,)]
    sink.write([sample(live, now_ms)])
    assert ask(sink, "SELECT number, ts_ms FROM sample JOIN container ON id = container ORDER BY 1") == [
        (2, now_ms - 10),
        (3, now_ms),
    ]
    sink.close()


def test_maintaining_a_closed_sink_is_harmless(tmp_path: Path) -> None:
    SqlSink(SqlConfig(state_dir=tmp_path)).maintain(START_MS, never)


EVENT_KINDS = ("creation", "deletion", "oom", "oom_kill")


def fill_events(sink: SqlSink, count: int) -> None:
    """Of each kind one a second."""
    sink.write([make_container(1)])
    rows = iter(range(100, 10**9))
    for second in range(count):
        sink.write([Event(START_MS + second * 1000, kind, 1, {}, next(rows), SOURCE) for kind in EVENT_KINDS])


@pytest.mark.usefixtures("small_slices")
def test_each_kind_of_event_has_its_own_bounds(tmp_path: Path) -> None:
    limits = {"event_age_limit_s": {"creation": 10.0, "oom": 1000.0}, "event_limit": {"deletion": 7, "default": 150, "oom": 0}}
    sink = open_sink(tmp_path, **limits)
    fill_events(sink, 200)
    now_ms = START_MS + 199_000
    for _ in range(100):
        sink.maintain(now_ms, never)
        if sink.maintenance_interval_s == retention.IDLE_S:
            break
    by_kind = "SELECT kind, count(*), min(ts_ms), max(ts_ms) FROM event GROUP BY kind ORDER BY kind"
    assert ask(sink, by_kind) == [
        ("creation", 11, now_ms - 10_000, now_ms),
        ("deletion", 7, now_ms - 6000, now_ms),
        ("oom", 200, START_MS, now_ms),
        ("oom_kill", 150, now_ms - 149_000, now_ms),
    ]
    sink.close()


@pytest.mark.usefixtures("small_slices")
def test_events_go_in_slices_too(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, event_limit={"oom": 10})
    fill_events(sink, 200)
    left = [200]

    def stop_at_once() -> bool:
        left.append(ask(sink, "SELECT count(*) FROM event WHERE kind = 'oom'")[0][0])
        return True

    for _ in range(8):
        sink.maintain(START_MS, stop_at_once)
    assert max(a - b for a, b in pairwise(left)) <= 50
    assert ask(sink, "SELECT count(*) FROM event WHERE kind = 'oom'") == [(10,)]
    assert ask(sink, "SELECT count(*) FROM event") == [(610,)]
    sink.close()


def test_a_million_events_of_a_kind_are_kept_without_a_word(tmp_path: Path) -> None:
    sink = open_sink(tmp_path)
    bounds = sink._event_bounds("oom", START_MS)
    assert bounds == (None, 1_000_000)
    sink.close()
