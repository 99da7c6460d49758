"""The views: their rates are those of `pipeline.rates`, on any series; and a question about an hour reads that hour."""

import re
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.servers import PostgresServer, need_postgres

from tidegauge.pipeline import rates
from tidegauge.pipeline.records import UNLIMITED, Container, Event, Gap, Sample, Spec
from tidegauge.pipeline.testing import SOURCE, START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql import migrate
from tidegauge.sinks.sql.database import open_database
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

CPU = ("cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "cpu_periods", "cpu_throttled_periods", "cpu_throttled_ns")
SCHEMA = make_schema((*CPU, "memory_working_set_bytes", "memory_limit_bytes", "memory_oom_kills"), ("network", "disk_io"))
WITHOUT_TABLES = make_schema(("memory_working_set_bytes",), ())
SILENCE_MS = 61_000


def ask(path: Path, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    conn = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        return conn.execute(sql, arguments).fetchall()
    finally:
        conn.close()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without rows, to be copied."""
    return store(tmp_path_factory.mktemp("empty") / "a.db", (), ())


def store(path: Path, samples: Sequence[Sample], containers: Sequence[Container], others: Sequence[Any] = ()) -> Path:
    sink = SqlSink(SqlConfig(url=f"sqlite:///{path}"))
    sink.write([make_batch(samples, containers, (SCHEMA, WITHOUT_TABLES)), *others])
    sink.close()
    return path


def network(*rows: tuple[str, int | None]) -> tuple[Any, ...]:
    """Rows of which only the received bytes move; packets tell that they were read."""
    return tuple((name, received, 1, None, None, None, None, None, None) for name, received in rows)


steps_ms = st.sampled_from((1, 999, 1000, 10_000, 30_000, 60_000, 61_000, 61_001, 200_000))
counters = st.none() | st.integers(0, 6).map(lambda n: n * 1_000_000_000)


@st.composite
def series(draw: st.DrawFn, number: int) -> list[Sample]:
    """Readings and closing samples of one container; after a closing sample everything is read."""
    out: list[Sample] = []
    ts_ms = START_MS
    was_closing = True
    for _ in range(draw(st.integers(1, 8))):
        ts_ms += draw(steps_ms)
        is_closing = not was_closing and draw(st.booleans())
        if is_closing:
            cpu = {name: draw(st.integers(0, 6)) * 1_000_000_000 for name in CPU}
            out.append(make_sample(SCHEMA, number, ts_ms, is_closing=True, **cpu))
            was_closing = True
            continue
        eth0 = draw(st.lists(counters, max_size=1) if was_closing else st.none() | st.lists(counters, max_size=1))
        was_closing = False
        tables = (None if eth0 is None else network(("lo", 5), *(("eth0", value) for value in eth0)), None)
        out.append(make_sample(SCHEMA, number, ts_ms, tables=tables, **{name: draw(counters) for name in CPU}))
    return out


gaps = st.lists(
    st.builds(
        lambda row, start, length, container: Gap(SOURCE, start, start + length, "stall", container, None, row),
        st.integers(100, 10_000),
        st.integers(0, 300).map(lambda s: START_MS + s * 1000),
        st.sampled_from((1, 1000, 5000)),
        st.sampled_from((None, 1, 2)),
    ),
    max_size=3,
    unique_by=lambda gap: gap.row,
)


def check_rates(ask: Callable[[str], list[tuple[Any, ...]]], samples: Sequence[Sample], lost: Sequence[Gap]) -> None:
    """What the views say is what the rules say. `ask` puts in place of FROM what has the column `number`, too."""
    schemas = {SCHEMA.id: SCHEMA}

    def expected(points: Any) -> list[tuple[int, int, int, float]]:
        found = rates.rates(points, lost, SILENCE_MS)
        return sorted((r.container, r.from_ms, r.to_ms, float(r.increase)) for r in found)

    for name, column, scale in (("cpu_usage_ns", "cpu_seconds", "1e9"), ("cpu_throttled_ns", "throttled_seconds", "1e9")):
        rows = ask(f"SELECT number, from_ms, ts_ms, {column} * {scale} FROM cpu WHERE {column} IS NOT NULL ORDER BY 1, 2")
        assert rows == expected(rates.points(samples, schemas, name)), name
    cores = ask("SELECT cpu_cores, cpu_seconds / seconds FROM cpu WHERE cpu_cores IS NOT NULL ORDER BY number, from_ms")
    assert [row[1] for row in cores] == pytest.approx([row[0] for row in cores])
    wanted = rates.cpu_cores(rates.rates(rates.points(samples, schemas, "cpu_usage_ns"), lost, SILENCE_MS))
    assert [row[0] for row in cores] == pytest.approx([step.value for step in wanted])
    rows = ask(
        "SELECT number, from_ms, ts_ms, receive_bytes FROM network WHERE interface = 'eth0' AND receive_bytes IS NOT NULL"
    )
    points = rates.table_points(samples, schemas, "network", "eth0", "network_receive_bytes")
    assert sorted(rows) == expected(points)
    per_second = ask("SELECT receive_bytes_per_second, receive_bytes / seconds FROM network WHERE receive_bytes IS NOT NULL")
    assert [a for a, _ in per_second] == pytest.approx([b for _, b in per_second])
    assert ask("SELECT count(*) FROM cpu WHERE TRUE") == [(len(samples),)]


@settings(max_examples=60)
@given(first=series(1), second=series(2), lost=gaps)
def test_rates_are_those_of_the_rules(empty: Path, first: list[Sample], second: list[Sample], lost: list[Gap]) -> None:
    containers = (make_container(1, "/a"), make_container(2, "/a", epoch=1))
    path = store(Path(shutil.copy(empty, empty.with_name("b.db"))), [*first, *second], containers, lost)
    check_rates(lambda sql: ask(path, sql.replace("number", "id")), [*first, *second], lost)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[PostgresServer, str]]:
    """A database with the tables, and its URL."""
    need_postgres()
    with PostgresServer() as server:
        url = server.database("views")
        migrate.upgrade(open_database(url, busy_timeout_s=5, password=server.password))
        yield server, url


@pytest.mark.integration
@settings(max_examples=20)
@given(first=series(1), second=series(2), lost=gaps)
def test_rates_on_postgresql_are_those_of_the_rules(
    server: tuple[PostgresServer, str], first: list[Sample], second: list[Sample], lost: list[Gap]
) -> None:
    """All examples lie in one database, each under a source of its own."""
    postgres, url = server
    source, instance = str(uuid.uuid4()), uuid.uuid4().hex[:16]
    containers = [make_container(n, "/a", source=source, instance=instance, epoch=n - 1) for n in (1, 2)]
    sink = SqlSink(SqlConfig(url=url, password=postgres.password))
    sink.agent = source
    sink.write([make_batch([*first, *second], containers, (SCHEMA,)), *(replace(gap, source=source) for gap in lost)])
    sink.close()

    def of_this(sql: str) -> list[tuple[Any, ...]]:
        own = f"(SELECT v.*, epoch + 1 AS number FROM {{}} v JOIN containers USING (id) WHERE source = '{source}') AS v WHERE"
        return postgres.sql(re.sub(r"FROM (\w+) WHERE", lambda m: "FROM " + own.format(m[1]), sql), database="views")

    check_rates(of_this, [*first, *second], lost)


def test_shares_are_those_of_the_rules(tmp_path: Path) -> None:
    read = ((0, 0), (10, 5), (10, 5), (11, 9), (20, None), (30, 9))
    samples = [
        make_sample(SCHEMA, 1, START_MS + i * 1000, cpu_periods=periods, cpu_throttled_periods=throttled)
        for i, (periods, throttled) in enumerate(read)
    ]
    path = store(tmp_path / "a.db", samples, [make_container(1, "/a")])
    found = [rates.rates(rates.points(samples, {SCHEMA.id: SCHEMA}, name)) for name in CPU[3:5]]
    wanted = [(step.to_ms, step.value) for step in rates.share(found[1], found[0])]
    assert ask(path, "SELECT ts_ms, throttled_share FROM cpu WHERE throttled_share IS NOT NULL ORDER BY 1") == wanted
    assert [value for _, value in wanted] == [0.5, 1.0]


def test_a_closing_sample_ends_the_idle_time_of_interfaces(tmp_path: Path) -> None:
    samples = [
        make_sample(SCHEMA, 1, START_MS, tables=(network(("eth0", 100)), None), cpu_usage_ns=1),
        make_sample(SCHEMA, 1, START_MS + 9000, is_closing=True, cpu_usage_ns=1),
        make_sample(SCHEMA, 1, START_MS + 10_000, tables=(network(("eth0", 5100)), None), cpu_usage_ns=2),
    ]
    path = store(tmp_path / "a.db", samples, [make_container(1, "/a")])
    wanted = rates.rates(rates.table_points(samples, {SCHEMA.id: SCHEMA}, "network", "eth0", "network_receive_bytes"))
    rows = ask(path, "SELECT from_ms, ts_ms, receive_bytes, receive_bytes_per_second FROM network ORDER BY ts_ms")
    assert rows[1:] == [(r.from_ms, r.to_ms, r.increase, r.per_s) for r in wanted]
    assert [row[2:] for row in rows] == [(None, None), (0, 0.0), (5000, 5000.0)]


def test_memory_has_no_closing_rows_and_no_limit_that_is_none(tmp_path: Path) -> None:
    samples = [
        make_sample(SCHEMA, 1, START_MS, memory_working_set_bytes=50, memory_limit_bytes=200, memory_oom_kills=3),
        make_sample(SCHEMA, 1, START_MS + 500, is_closing=True, cpu_usage_ns=1),
        make_sample(SCHEMA, 1, START_MS + 1000, memory_working_set_bytes=60, memory_limit_bytes=UNLIMITED, memory_oom_kills=5),
        make_sample(SCHEMA, 1, START_MS + 2000, memory_working_set_bytes=None, memory_limit_bytes=0, memory_oom_kills=0),
    ]
    path = store(tmp_path / "a.db", samples, [make_container(1, "/a")])
    columns = "memory_working_set_bytes, memory_limit_bytes, memory_limit_share, oom_kills"
    assert ask(path, f"SELECT {columns} FROM memory ORDER BY ts_ms") == [
        (50, 200, 0.25, None),
        (60, None, None, 2),
        (None, 0, None, None),
    ]


def test_a_row_has_the_name_in_force_or_the_first_one_said_afterwards(tmp_path: Path) -> None:
    bare = make_container(1, "/a", name=None, image=None, valid_from_ms=START_MS)
    named = make_container(1, "/a", name="web", image="web:1", valid_from_ms=START_MS + 2000, namespace="shop")
    renamed = make_container(1, "/a", name="web-old", image="web:1", valid_from_ms=START_MS + 4000)
    plain = make_container(2, "/b", name=None, valid_from_ms=START_MS + 9000)
    samples = [make_sample(SCHEMA, 1, START_MS + ms, memory_working_set_bytes=ms) for ms in (0, 2000, 3999, 4000)]
    samples.append(make_sample(SCHEMA, 2, START_MS, memory_working_set_bytes=9))
    path = store(tmp_path / "a.db", samples, [bare, plain], [named, renamed])
    rows = ask(path, "SELECT ts_ms - ?, container, path, image, namespace FROM memory ORDER BY id, ts_ms", START_MS)
    assert rows == [
        (0, "web", "/a", "web:1", "shop"),
        (2000, "web", "/a", "web:1", "shop"),
        (3999, "web", "/a", "web:1", "shop"),
        (4000, "web-old", "/a", "web:1", None),
        (0, "/b", "/b", plain.image, None),
    ]


def test_times_are_readable_and_utc(tmp_path: Path) -> None:
    path = store(tmp_path / "a.db", [make_sample(SCHEMA, 1, START_MS + 7, cpu_usage_ns=1)], [make_container(1, "/a")])
    assert ask(path, "SELECT time, ts_ms FROM cpu") == [("2023-11-14 22:13:20.007", START_MS + 7)]


def test_innermost_are_those_below_which_there_is_none(tmp_path: Path) -> None:
    paths = ("/", "/a", "/a/b", "/a/b/c", "/a-b", "/a/b0", "/d")
    containers = [make_container(n, p) for n, p in enumerate(paths, 1)]
    other = make_container(9, "/d/e", source="another-agent")
    samples = [make_sample(SCHEMA, c.number, START_MS + c.number, memory_working_set_bytes=1) for c in (*containers, other)]
    path = store(tmp_path / "a.db", samples, [*containers, other])
    inner = [("/a-b",), ("/a/b/c",), ("/a/b0",), ("/d",), ("/d/e",)]
    assert ask(path, "SELECT path FROM containers WHERE is_innermost ORDER BY path") == inner
    assert ask(path, "SELECT path FROM memory WHERE is_innermost ORDER BY path") == inner


def test_containers_tell_limits_and_the_true_last_sample(tmp_path: Path) -> None:
    spec = Spec(cpu_quota_us=150_000, cpu_period_us=100_000, memory_limit_bytes=UNLIMITED)
    web = make_container(1, "/a", name="web", spec=spec)
    samples = [make_sample(SCHEMA, 1, START_MS + ms, cpu_usage_ns=1) for ms in (0, 5000)]
    path = store(tmp_path / "a.db", samples, [web])
    columns = "container, is_alive, first_ms, last_ms, cpu_limit_cores, memory_limit_bytes, labels ->> 'tier', ended"
    assert ask(path, f"SELECT {columns} FROM containers") == [("web", 1, START_MS, START_MS + 5000, 1.5, None, "front", None)]


def test_events_have_the_gaps_among_them(tmp_path: Path) -> None:
    web, host = make_container(1, "/a", name="web"), make_container(2, "/")
    others = [
        Event(START_MS + 9, "oom_kill", 1, {"pid": 7}, 5, SOURCE),
        Event(START_MS + 1, "clock_step", None, {}, 6, SOURCE),
        Gap(SOURCE, START_MS + 5, START_MS + 7, "stall", None, 3, 7),
        Gap(SOURCE, START_MS + 4, START_MS + 7, "stall", 1, None, 8),
    ]
    samples = [make_sample(SCHEMA, number, START_MS, cpu_usage_ns=1) for number in (1, 2)]
    path = store(tmp_path / "a.db", samples, [web, host], others)
    rows = ask(
        path,
        "SELECT ts_ms - ?, kind, container, host, details ->> 'reason', details ->> 'pid' FROM events ORDER BY 1",
        START_MS,
    )
    assert rows == [
        (1, "clock_step", None, "host-a", None, None),
        (4, "gap", "web", "host-a", "stall", None),
        (5, "gap", None, "host-a", "stall", None),
        (9, "oom_kill", "web", "host-a", None, 7),
    ]


@pytest.mark.parametrize("view", ["cpu", "memory", "network", "disk", "filesystem"])
def test_a_question_about_a_time_reads_that_time_alone(tmp_path: Path, view: str) -> None:
    path = store(tmp_path / "a.db", [make_sample(SCHEMA, 1, START_MS, cpu_usage_ns=1)], [make_container(1, "/a")])
    for what in ("*", "container, count(*), max(ts_ms)"):
        plan = [row[3] for row in ask(path, f"EXPLAIN QUERY PLAN SELECT {what} FROM {view} WHERE ts_ms >= 1 AND ts_ms < 9")]
        assert not [line for line in plan if line.startswith("SCAN") and line.split()[1] in ("s", "p", "b", "k")], plan
        assert [line for line in plan if line.startswith("SEARCH s USING PRIMARY KEY (ts_ms>? AND ts_ms<?")], plan
