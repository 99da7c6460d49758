"""The same questions about the same records, over every store that keeps history: all answer as plain records do."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.history_rig import BEGIN_MS, CATALOGUE, END_MS, PureReader, records
from tests.servers import Influxd, PostgresServer, need_influxd
from tests.sinks.databases import Postgresql, Sqlite

from tidegauge.pipeline.history import Bounds, HistoryReader, StoredContainer, StoreError, TooMuch
from tidegauge.pipeline.history_answer import Answer, answer
from tidegauge.pipeline.history_query import AGGREGATES, Question, Select
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.sql.history import SqlHistory
from tidegauge.sinks.sql.retention import IDLE_S
from tidegauge.sinks.sql.sink import SqlSink

RECORDS = records()
PURE = PureReader(RECORDS)
FAR_MS = 4 * 10**12
CPU, MEMORY, NETWORK = "cpu_usage_ns", "memory_working_set_bytes", "network_receive_bytes"


def _sql(sink: SqlSink) -> Iterator[HistoryReader]:
    sink.open()
    sink.write(RECORDS)
    yield sink.history()
    sink.history().close()
    sink.close()


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.integration),
        pytest.param("influxdb", marks=pytest.mark.integration),
    ],
)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HistoryReader]:
    """A reader over a store that was given the records."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "influxdb":
        need_influxd()
        with Influxd(folder) as server:
            sink = InfluxdbSink(InfluxdbConfig(url=server.url, database="history", host="host-a"))
            sink.open()
            sink.write([r for r in RECORDS if isinstance(r, sink.takes)])
            yield sink.history()
            sink.close()
    elif request.param == "postgresql":
        server_: PostgresServer = request.getfixturevalue("postgres")
        databases = Postgresql(server_)
        yield from _sql(databases.sink(folder, retention_s=0))
        databases.close()
    else:
        yield from _sql(Sqlite().sink(folder, retention_s=0))


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def rolled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HistoryReader]:
    """A reader over a store that has made its roll-ups of the records, but of the last hour and a half."""
    folder = tmp_path_factory.mktemp(f"rolled-{request.param}")
    databases = Sqlite() if request.param == "sqlite" else Postgresql(request.getfixturevalue("postgres"))
    sink = databases.sink(folder, retention_s=0)
    for reader in _sql(sink):
        now_ms = END_MS - 5_400_000
        sink.maintain(now_ms, lambda: False)
        while sink.maintenance_interval_s < IDLE_S:
            sink.maintain(now_ms, lambda: False)
        yield reader
    if isinstance(databases, Postgresql):
        databases.close()


def _ask(reader: HistoryReader, metric: str, **fields: Any) -> Answer:
    given: dict[str, Any] = {"metric": metric, "since_ms": BEGIN_MS, "until_ms": END_MS} | fields
    asked = Question(**given)
    return answer(reader, asked, Bounds(10**6, time.monotonic() + 120), END_MS)


def _told(containers: list[StoredContainer]) -> list[StoredContainer]:
    return [msgspec.structs.replace(c, ref=None, runtime=None, container_id=None, pod_uid=None) for c in containers]


@pytest.mark.parametrize("agg", [*AGGREGATES, "p95", "p0", "p100"])
@pytest.mark.parametrize("metric", [CPU, MEMORY])
def test_every_aggregate_in_buckets(store: HistoryReader, metric: str, agg: str) -> None:
    if agg in ("increase", "rate") and metric == MEMORY:
        return
    assert _ask(store, metric, agg=agg, bucket_ms=420_000) == _ask(PURE, metric, agg=agg, bucket_ms=420_000)


@pytest.mark.parametrize(
    ("metric", "fields"),
    [
        (NETWORK, {}),
        (NETWORK, {"instance": "eth1", "bucket_ms": 600_000}),
        (NETWORK, {"agg": "increase", "group": ("host",)}),
        ("filesystem_usage_bytes", {"bucket_ms": 900_000}),
        ("filesystem_inodes_free", {"instance": "/dev/sdb*", "agg": "max"}),
        ("load1", {"bucket_ms": 1_800_000}),
        ("network_transmit_dropped", {"agg": "count", "bucket_ms": 1_800_000}),
        (MEMORY, {"group": ("image",), "until_ms": BEGIN_MS + 7_000_000}),
        (MEMORY, {"group": ("image",)}),
        ("process_count", {"bucket_ms": 600_000}),
        ("memory_failures", {"agg": "increase", "bucket_ms": 3_600_000}),
        ("pids_current", {"agg": "median"}),
        (CPU, {"select": Select(path=("/docker/[bd]",)), "bucket_ms": 10_000, "since_ms": BEGIN_MS + 4_000_000}),
        (CPU, {"group": ("namespace", "label:app"), "agg": "sum", "bucket_ms": 300_000}),
        (MEMORY, {"group": (), "agg": "p50"}),
        (MEMORY, {"top": 4, "bucket_ms": 1_200_000, "agg": "max"}),
        (MEMORY, {"select": Select(namespace=("shop",), host=("host-?",))}),
        (MEMORY, {"select": Select(container=("[ab]", "/kubepods/*"))}),
        (CPU, {"since_ms": BEGIN_MS + 2_900_000, "until_ms": BEGIN_MS + 3_700_000, "bucket_ms": 100_000}),
        (CPU, {"select": Select(name=("nobody",))}),
        (CPU, {"since_ms": END_MS + 10**6, "until_ms": END_MS + 10**7}),
        ("memory_rss_bytes", {"bucket_ms": 3_600_000}),
    ],
)
def test_groups_choices_tables_and_edges(store: HistoryReader, metric: str, fields: dict[str, Any]) -> None:
    assert _ask(store, metric, **fields) == _ask(PURE, metric, **fields)


@pytest.mark.parametrize("span", [(0, FAR_MS), (BEGIN_MS + 7_100_000, END_MS), (BEGIN_MS, BEGIN_MS), (END_MS, FAR_MS)])
def test_containers_and_gaps(store: HistoryReader, span: tuple[int, int]) -> None:
    found, expected = list(store.containers(*span)), list(PURE.containers(*span))
    assert _told(found) == _told(expected)
    assert dict(store.gaps(found, *span)) == dict(PURE.gaps(expected, *span))


def test_readings(store: HistoryReader) -> None:
    bounds = Bounds(10**6, time.monotonic() + 120)
    found, expected = list(store.containers(0, FAR_MS)), list(PURE.containers(0, FAR_MS))
    for name in (CPU, MEMORY, NETWORK, "load1"):
        span = (BEGIN_MS + 1_000_000, BEGIN_MS + 5_000_000)
        got = store.series(found, CATALOGUE[name], *span, bounds)
        for c in expected:
            assert dict(got.get(c.key, {})) == dict(PURE.series([c], CATALOGUE[name], *span, bounds)[c.key]), (name, c.path)
    assert store.oldest_ms() == PURE.oldest_ms()


def test_bounds_hold(store: HistoryReader) -> None:
    containers = list(store.containers(0, FAR_MS))
    with pytest.raises(TooMuch, match="more than 100 rows"):
        store.series(containers, CATALOGUE[CPU], 0, FAR_MS, Bounds(100, time.monotonic() + 60))
    with pytest.raises(TooMuch, match="too long"):
        store.series(containers, CATALOGUE[CPU], 0, FAR_MS, Bounds(10**6, time.monotonic() - 1))


@pytest.mark.parametrize(
    ("metric", "agg"),
    [
        *((CPU, agg) for agg in ("avg", "sum", "rate", "increase", "count", "min", "max", "p95", "median")),
        *((MEMORY, agg) for agg in ("avg", "sum", "count", "min", "max", "last", "p95", "p5")),
        *((NETWORK, agg) for agg in ("avg", "increase")),
        ("filesystem_usage_bytes", "avg"),
        ("load1", "max"),
    ],
)
@pytest.mark.parametrize(("resolution", "bucket_ms"), [("5m", 600_000), ("1h", None)])
def test_roll_ups_of_the_store_say_what_samples_say(
    rolled: HistoryReader, metric: str, agg: str, resolution: str, bucket_ms: int | None
) -> None:
    fields: dict[str, Any] = {"agg": agg, "bucket_ms": bucket_ms, "select": Select(path=("/", "/docker/[abcdf]", "/kube*"))}
    exact, found = _ask(PURE, metric, **fields), _ask(rolled, metric, resolution=resolution, **fields)
    assert found.resolution == resolution
    assert found.rows < exact.rows
    # sketches are off by 1 % at most; where an interface comes or goes, samples leave some seconds unknown
    off = 0.01 if "sketch" in found.method else 0.02 if metric == NETWORK else 1e-9
    assert [s.labels for s in found.series] == [s.labels for s in exact.series]
    for a, b in zip(exact.series, found.series, strict=True):
        pairs = [(a.value, b.value), *((x.value, y.value) for x, y in zip(a.points, b.points, strict=True))]
        for expected, value in pairs:
            assert value == (None if expected is None else pytest.approx(expected, rel=off, abs=1e-9)), a.labels


def test_long_spans_are_answered_from_roll_ups(rolled: HistoryReader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _ask(rolled, CPU, agg="p95", bucket_ms=300_000).resolution == "raw"
    monkeypatch.setattr("tidegauge.pipeline.history_resolution.RAW_SPAN_MS", 3_600_000)
    assert _ask(rolled, CPU, agg="p95", bucket_ms=300_000).resolution == "5m"
    monkeypatch.setattr("tidegauge.pipeline.history_resolution.FINE_SPAN_MS", 3_600_000)
    assert _ask(rolled, CPU, agg="p95", bucket_ms=3_600_000).resolution == "1h"


@pytest.mark.parametrize("bucket_ms", [None, 3_600_000])
@pytest.mark.parametrize(
    ("metric", "agg"), [(CPU, "p95"), (CPU, "rate"), (MEMORY, "max"), (MEMORY, "median"), (NETWORK, "avg")]
)
def test_whole_hours_of_the_store_say_what_their_5_minutes_say(
    rolled: HistoryReader, monkeypatch: pytest.MonkeyPatch, metric: str, agg: str, bucket_ms: int | None
) -> None:
    monkeypatch.setattr("tidegauge.pipeline.history_resolution.RAW_SPAN_MS", 3_600_000)
    fields: dict[str, Any] = {"agg": agg, "bucket_ms": bucket_ms, "select": Select(path=("/", "/docker/[bcdf]"))}
    fine, found = _ask(rolled, metric, resolution="5m", **fields), _ask(rolled, metric, **fields)
    assert (found.resolution, found.method) == ("5m", fine.method)
    assert found.rows < fine.rows
    for a, b in zip(fine.series, found.series, strict=True):
        assert (b.labels, b.coverage, [p.ts_ms for p in b.points]) == (a.labels, a.coverage, [p.ts_ms for p in a.points])
        for expected, value in [(a.value, b.value), *((x.value, y.value) for x, y in zip(a.points, b.points, strict=True))]:
            assert value == (None if expected is None else pytest.approx(expected, rel=1e-12)), a.labels


def test_a_file_that_is_not_there_is_a_store_that_cannot_be_asked(tmp_path: Path) -> None:
    history = SqlHistory(tmp_path / "none.db")
    with pytest.raises(StoreError, match=r"none\.db: unable to open database file"):
        history.containers(0, 1)
    with pytest.raises(StoreError):
        history.metrics()
