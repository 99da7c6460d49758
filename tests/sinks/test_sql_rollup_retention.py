"""Retention of each resolution: nothing goes before what is made of it, and what was made outlives what it was made of."""

from pathlib import Path

import pytest
from tests.sinks.databases import Postgresql, Sqlite, ask

from tidegauge.pipeline.errors import RetryableError
from tidegauge.pipeline.testing import make_batch, make_sample, make_schema
from tidegauge.sinks.sql import retention
from tidegauge.sinks.sql.sink import SqlSink

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_700_000_000_000 // DAY_MS * DAY_MS
SCHEMA = make_schema(tables=("network",))
STEP_MS = 60_000
DAYS = 3
END_MS = START_MS + DAYS * DAY_MS
NETWORK = (("eth0", 1, 2, 3, 4, 5, 6, 7, 8),)


def never() -> bool:
    return False


def fill(sink: SqlSink, numbers: tuple[int, ...] = (1, 2), from_ms: int = START_MS, to_ms: int = END_MS) -> None:
    """A sample a minute and container. Container 2 lives for the first two hours alone."""
    for number in numbers:
        last_ms = min(to_ms, START_MS + 2 * HOUR_MS) if number == 2 else to_ms
        samples = [
            make_sample(SCHEMA, number, ts_ms, (NETWORK,), cpu_usage_ns=ts_ms, memory_usage_bytes=ts_ms % 7)
            for ts_ms in range(from_ms, last_ms, STEP_MS)
        ]
        for first in range(0, len(samples), 500):
            sink.write([make_batch(samples[first : first + 500], schemas=(SCHEMA,))])


def maintain(sink: SqlSink, now_ms: int) -> None:
    sink.maintain(now_ms, never)
    for _ in range(5000):
        sink.maintain(now_ms, never)
        if sink.maintenance_interval_s == retention.IDLE_S:
            return
    raise AssertionError("it never ends")


def span(sink: SqlSink, table: str) -> tuple[int | None, int | None]:
    ((first, last),) = ask(sink, f"SELECT min(ts_ms), max(ts_ms) FROM {table}")
    return first, last


def test_each_resolution_is_kept_for_its_own_time(databases: Sqlite | Postgresql, tmp_path: Path) -> None:
    ages = {"retention_s": 86400.0, "rollup_5m_retention_s": 2 * 86400.0, "rollup_1h_retention_s": 0.0}
    sink = databases.sink(tmp_path, retention_bytes=0, **ages)
    fill(sink)
    now_ms = END_MS + HOUR_MS
    maintain(sink, now_ms)
    for table in ("sample", "sample_network"):
        # on PostgreSQL by whole days
        assert span(sink, table) == (END_MS - (DAY_MS if databases.kind == "postgresql" else 23 * HOUR_MS), END_MS - STEP_MS)
    for table in ("sample_5m", "sample_network_5m"):
        assert span(sink, table) == (now_ms - 2 * DAY_MS, END_MS - 300_000)
    for table in ("sample_1h", "sample_network_1h"):
        assert span(sink, table) == (START_MS, END_MS - HOUR_MS)
    assert ask(sink, "SELECT count(*), sum(cpu_usage_ns_increase) FROM sample_1h") == [
        (24 * DAYS + 2, DAYS * DAY_MS - STEP_MS + 2 * HOUR_MS - STEP_MS)
    ]
    assert ask(sink, "SELECT number FROM container ORDER BY 1") == [(1,), (2,)], "of both there are hours"
    sink.close()


def test_a_container_goes_with_its_last_rollup(databases: Sqlite | Postgresql, tmp_path: Path) -> None:
    ages = {"retention_s": 86400.0, "rollup_5m_retention_s": 86400.0, "rollup_1h_retention_s": 2 * 86400.0}
    sink = databases.sink(tmp_path, retention_bytes=0, **ages)
    fill(sink)
    maintain(sink, START_MS + 2 * DAY_MS + HOUR_MS)
    assert ask(sink, "SELECT number FROM container ORDER BY 1") == [(1,), (2,)]
    sink.close()
    sink.open()
    maintain(sink, END_MS + HOUR_MS)
    assert span(sink, "sample_1h") == (END_MS - 2 * DAY_MS, END_MS - HOUR_MS)
    assert ask(sink, "SELECT number FROM container ORDER BY 1") == [(1,)]
    assert ask(sink, "SELECT count(*) FROM container_metadata") == [(1,)]
    sink.close()


def test_rows_stay_until_their_buckets_are_made(databases: Sqlite | Postgresql, tmp_path: Path) -> None:
    """However old they are: retention passes nothing that is marked."""
    sink = databases.sink(tmp_path, retention_s=1.0, rollup_5m_retention_s=1.0, retention_bytes=0)
    end_ms = START_MS + 6 * HOUR_MS
    fill(sink, (1,), to_ms=end_ms)
    calls = 0

    def once() -> bool:
        return True

    while sink.maintenance_interval_s != retention.IDLE_S or not calls:
        sink.maintain(START_MS + 9 * DAY_MS, once)
        calls += 1
        if calls % 20 == 0:
            ((low, rows),) = ask(sink, "SELECT min(ts_ms), count(*) FROM rollup_dirty WHERE width_ms = 300000")
            if rows:
                assert ask(sink, f"SELECT count(*) FROM sample WHERE ts_ms >= {low}") == [
                    ((end_ms - max(low, START_MS)) // STEP_MS,)
                ]
    assert ask(sink, "SELECT count(*) FROM sample") == [(0,)]
    ((hours, increase),) = ask(sink, "SELECT count(*), sum(cpu_usage_ns_increase) FROM sample_1h")
    assert (hours, increase) == (6, 6 * HOUR_MS - STEP_MS)
    sink.close()


def test_late_rows_of_a_time_without_samples_leave_its_rollups(databases: Sqlite | Postgresql, tmp_path: Path) -> None:
    sink = databases.sink(tmp_path, retention_s=86400.0, retention_bytes=0)
    fill(sink, (1,))
    maintain(sink, END_MS + HOUR_MS)
    before = [ask(sink, f"SELECT * FROM {table} ORDER BY container, ts_ms") for table in ("sample_5m", "sample_1h")]
    late = [make_sample(SCHEMA, 1, START_MS + HOUR_MS + 17, cpu_usage_ns=START_MS + HOUR_MS + 17)]
    try:
        sink.write([make_batch(late, schemas=(SCHEMA,))])
    except RetryableError:
        # PostgreSQL: its partition is gone, which who writes finds out by this, and then makes it
        sink.write([make_batch(late, schemas=(SCHEMA,))])
    maintain(sink, END_MS + HOUR_MS)
    assert [ask(sink, f"SELECT * FROM {table} ORDER BY container, ts_ms") for table in ("sample_5m", "sample_1h")] == before
    assert ask(sink, "SELECT count(*) FROM rollup_dirty WHERE ts_ms < ?", END_MS - DAY_MS) == [(0,)]
    sink.close()


def test_a_size_shrinks_all_resolutions_in_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw 1.5 days, 5 minutes 3 days: of a size that does not hold it, each gets the same share of its time, within an hour."""
    monkeypatch.setattr(retention, "SLICE_ROWS", 50)
    ages = {"retention_s": 1.5 * 86400.0, "rollup_5m_retention_s": 3 * 86400.0, "rollup_1h_retention_s": 40 * 86400.0}
    # all roll-ups are there before the size matters: how much of them is made meanwhile depends on the machine
    sink = Sqlite().sink(tmp_path, retention_bytes=0, **ages)
    fill(sink, (1, 3))
    maintain(sink, END_MS + HOUR_MS)
    sink.close()
    sink = Sqlite().sink(tmp_path, retention_bytes=1_000_000, **ages)
    sink.open()
    maintain(sink, END_MS + HOUR_MS)
    raw, five = (ask(sink, f"SELECT min(ts_ms) FROM {t}")[0][0] for t in ("sample", "sample_5m"))
    shares = [(END_MS + HOUR_MS - raw) / 1.5, (END_MS + HOUR_MS - five) / 3]
    assert 0.1 * DAY_MS < shares[0] < 0.9 * DAY_MS
    assert shares[0] == pytest.approx(shares[1], abs=HOUR_MS)
    assert span(sink, "sample_1h") == (START_MS, END_MS - HOUR_MS)
    sink.close()


@pytest.mark.integration
def test_a_partition_that_is_read_is_left_for_another_time(postgresql: Postgresql, tmp_path: Path) -> None:
    sink = postgresql.sink(tmp_path, retention_s=86400.0, retention_bytes=0)
    fill(sink, (1,), to_ms=START_MS + 2 * DAY_MS)
    maintain(sink, START_MS + HOUR_MS)
    engine = sink.database.reading_engine()
    with engine.connect() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM sample").all()
        maintain(sink, END_MS + HOUR_MS)
        fill(sink, (1,), from_ms=END_MS, to_ms=END_MS + HOUR_MS)
    engine.dispose()
    assert span(sink, "sample")[0] == START_MS
    sink.close()
