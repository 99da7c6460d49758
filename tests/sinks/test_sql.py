"""The SQL sink: the contract, values both ways, identity, conflicts, databases of another age."""

import json
import stat
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers import free_port
from tests.sinks.databases import Postgresql, Sqlite, ask, everything, live

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, METRICS, SCALAR_TABLES, Catalogue
from tidegauge.pipeline.errors import ConfigError, PermanentError, RetryableError
from tidegauge.pipeline.plugin import Maintained, Sink
from tidegauge.pipeline.records import (
    MAX_INT,
    Batch,
    Container,
    End,
    Event,
    Gap,
    Kind,
    Metric,
    Record,
    Sample,
    Schema,
    TableSchema,
)
from tidegauge.pipeline.registry import configure
from tidegauge.pipeline.testing import (
    PLUGIN_METRICS,
    SOURCE,
    START_MS,
    SinkContract,
    Stored,
    flat,
    generate_records,
    make_batch,
    make_container,
    make_sample,
    make_schema,
)
from tidegauge.sinks.sql.history import SqlHistory
from tidegauge.sinks.sql.rows import Insert
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
from tidegauge.sinks.sql.sqlite import SqliteWriter
from tidegauge.sinks.sql.tables import metadata


class SqlContract(SinkContract):
    def stored(self, sink: Sink) -> Stored:
        assert isinstance(sink, SqlSink)
        return everything(sink)

    def stored_rows(self, sink: Sink) -> Iterable[int] | None:
        assert isinstance(sink, SqlSink)
        return [row for (row,) in ask(sink, "SELECT row FROM event UNION ALL SELECT row FROM gap")]


class TestSqlite(SqlContract):
    def make_sink(self, tmp_path: Path) -> Sink:
        return Sqlite().sink(tmp_path)

    def make_unreachable_sink(self, tmp_path: Path) -> Sink | None:
        (tmp_path / "file").write_bytes(b"")
        return SqlSink(SqlConfig(url=f"sqlite:///{tmp_path}/file/below/a.db"))


@pytest.mark.integration
class TestPostgresql(SqlContract):
    @pytest.fixture(autouse=True)
    def _databases(self, postgresql: Postgresql) -> None:
        self.databases = postgresql

    def make_sink(self, tmp_path: Path) -> Sink:
        return self.databases.sink(tmp_path)

    def make_unreachable_sink(self, tmp_path: Path) -> Sink | None:
        return SqlSink(SqlConfig(url=f"postgresql+psycopg://agent@127.0.0.1:{free_port()}/a"))


NAMES = [m for m in METRICS if m.table in SCALAR_TABLES]
INTEGERS = st.integers(-(2**63), MAX_INT)
# PostgreSQL has no NUL in a text, and neither has a name of the kernel's.
INSTANCES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
REALS = st.floats(allow_nan=False, allow_infinity=False)
SCHEMA = Catalogue().schema([m.name for m in NAMES], [t for t in INSTANCE_LABELS if t != "custom"])


def values_for(metric: Metric) -> st.SearchStrategy[int | float | None]:
    is_real = {c.name: str(c.type) == "DOUBLE" for t in metadata.tables.values() for c in t.columns}[metric.name]
    return st.none() | (REALS if is_real else INTEGERS)


@st.composite
def any_sample(draw: st.DrawFn, ts_ms: int) -> Sample:
    tables = []
    for table in SCHEMA.tables:
        row = st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), *(values_for(m) for m in table.metrics)
        )
        tables.append(draw(st.none() | st.lists(row, max_size=3, unique_by=lambda r: r[0]).map(tuple)))
    return Sample(1, ts_ms, SCHEMA.id, tuple(draw(values_for(m)) for m in NAMES), tuple(tables), draw(st.booleans()))


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(sample=any_sample(START_MS))
def test_every_value_of_the_catalogue_comes_back(sample: Sample, sink: SqlSink) -> None:
    """Each sample is of a container of its own, so that one database does for all."""
    number = ask(sink, "SELECT count(*) FROM container")[0][0] + 1
    container = make_container(number, instance=f"{number:016x}")
    batch = make_batch([msgspec.structs.replace(sample, container=number)], (container,), (SCHEMA,))
    sink.write([batch])
    sink.write([batch])
    assert [(key, values) for key, values in everything(sink) if key[0] == container.instance] == flat([batch])
    assert sink.conflict_rows == 0


@pytest.fixture
def sink(databases: Sqlite | Postgresql, tmp_path: Path) -> Iterable[SqlSink]:
    sink = databases.sink(tmp_path)
    sink.open()
    yield sink
    sink.close()


def test_pages_of_samples_are_well_filled() -> None:
    """Against the same rows after VACUUM, which leaves nothing free; in the order of their key they take 9 % more than that."""
    random = Random(1)
    engine = sa.create_engine("sqlite://")
    with engine.connect() as conn:
        conn.exec_driver_sql(
            "CREATE TABLE s (ts_ms BIGINT, container BIGINT, v BLOB, PRIMARY KEY (ts_ms, container)) WITHOUT ROWID"
        )
        writer = SqliteWriter(conn)
        for first in range(0, 12_000, 300):
            insert = Insert("s", ("ts_ms", "container", "v"), 2)
            insert.rows = [(START_MS + n // 50, n % 50, bytes(random.randint(160, 200))) for n in range(first, first + 300)]
            writer.insert(insert)
        conn.commit()
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
        conn.exec_driver_sql("VACUUM")
        packed = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
    engine.dispose()
    assert pages < 1.075 * packed


def test_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    sink = Sqlite().sink(tmp_path)
    sink.write(list(generate_records(2)))
    files = sorted(p.name for p in sink.path.parent.iterdir())
    assert files == ["tidegauge.db", "tidegauge.db-shm", "tidegauge.db-wal"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in sink.path.parent.iterdir()} == {0o600}
    assert ask(sink, "PRAGMA journal_mode") == [("wal",)]
    sink.close()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"url": "mysql://db/x"}, "expected a sqlite: or postgresql: URL, got one of mysql"),
        ({"url": "postgresql+psycopg://u:word@db/x"}, "expected no password in it"),
        ({"url": "postgresql+asyncpg://u@db/x"}, r"expected postgresql\+psycopg://, got postgresql\+asyncpg://"),
        ({"password": "a", "password_file": "/b"}, "expected one of password and password_file, got both"),
        ({"url": "sqlite://"}, "expected a file"),
        ({"url": "no url"}, "expected a database URL"),
        ({"retention_s": -1}, "retention_s"),
        ({"retention": 1}, "unknown key"),
    ],
)
def test_wrong_options_stop_the_start(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SqlSink(configure(SqlSink, "sinks.sql", table, {}))


def test_default_file_is_in_the_state_folder(tmp_path: Path) -> None:
    sink = SqlSink(configure(SqlSink, "sinks.sql", {}, {"state_dir": str(tmp_path)}))
    assert sink.path == tmp_path / "server" / "tidegauge.db"
    assert isinstance(sink, Maintained)
    assert not sink.path.exists()


def test_what_came_first_stays_and_a_conflict_is_counted(sink: SqlSink) -> None:
    schema = make_schema()
    first = make_batch([make_sample(schema, ts_ms=START_MS + i, cpu_usage_ns=i, pids_current=1) for i in range(5)])
    pids = [1, 1, None, 2, 1, 1]
    other = [make_sample(schema, ts_ms=START_MS + i, cpu_usage_ns=i, pids_current=n) for i, n in enumerate(pids)]
    sink.write([first])
    sink.write([make_batch(other)])
    assert sink.counters() == {"conflict_rows": 2}
    assert ask(sink, "SELECT cpu_usage_ns, pids_current FROM sample") == [(i, 1) for i in range(6)]


@pytest.mark.parametrize("place", [0, 1])
def test_what_came_first_stays_within_a_write_too(sink: SqlSink, place: int) -> None:
    schema = make_schema()
    times = [START_MS - 1] * place + [START_MS, START_MS]
    sink.write([make_batch([make_sample(schema, ts_ms=ts_ms, pids_current=i) for i, ts_ms in enumerate(times)])])
    assert sink.counters() == {"conflict_rows": 1}
    assert ask(sink, f"SELECT pids_current FROM sample WHERE ts_ms = {START_MS}") == [(place,)]


def test_a_conflict_is_counted_once_where_schemas_change_within_a_batch(sink: SqlSink) -> None:
    old, new = make_schema(("cpu_usage_ns",), ()), make_schema(("cpu_usage_ns", "pids_current"), ())

    def batch(cpu_usage_ns: int) -> Batch:
        samples = [
            make_sample(old, ts_ms=START_MS, cpu_usage_ns=cpu_usage_ns),
            make_sample(new, ts_ms=START_MS + 1, cpu_usage_ns=2, pids_current=9),
        ]
        return make_batch(samples, schemas=(old, new))

    sink.write([batch(1)])
    sink.write([batch(3)])
    assert sink.conflict_rows == 1
    assert ask(sink, "SELECT cpu_usage_ns, pids_current FROM sample ORDER BY ts_ms") == [(1, None), (2, 9)]


def test_last_and_first_sample_are_true(sink: SqlSink) -> None:
    schema = make_schema()
    for ts_ms in (START_MS + 2000, START_MS + 5000, START_MS + 1000):
        sink.write([make_batch([make_sample(schema, ts_ms=ts_ms, cpu_usage_ns=1)])])
    assert ask(sink, "SELECT first_ms, last_ms FROM container_span") == [(START_MS + 1000, START_MS + 5000)]


def test_names_are_valid_from_their_time(sink: SqlSink) -> None:
    bare = make_container(name=None, image=None, labels={})
    named = msgspec.structs.replace(bare, name="web", labels={"b": "2", "a": "1"}, valid_from_ms=START_MS + 500)
    sink.write([bare, named, bare, named])
    rows = ask(sink, "SELECT valid_from_ms, name, labels FROM container_metadata ORDER BY 1")
    assert rows == [(bare.valid_from_ms, None, "{}"), (START_MS + 500, "web", '{"a":"1","b":"2"}')]


def test_events_gaps_and_ends(sink: SqlSink) -> None:
    records: list[Record] = [
        make_container(7),
        Event(START_MS, "oom_kill", 7, {"pid": 3}, 10, SOURCE),
        Event(START_MS, "clock_step", None, {"seconds": -3.5}, 11, SOURCE),
        Gap(SOURCE, START_MS, START_MS + 9, "dropped:bound", 7, 12, 12),
        End(7, START_MS + 10, 13),
    ]
    sink.write(records)
    sink.write(records)
    id_ = ask(sink, "SELECT id FROM container")[0][0]
    events = ask(sink, "SELECT source, row, ts_ms, kind, container, details FROM event ORDER BY row")
    assert [(*e[:5], json.loads(e[5])) for e in events] == [
        (SOURCE, 10, START_MS, "oom_kill", id_, {"pid": 3}),
        (SOURCE, 11, START_MS, "clock_step", None, {"seconds": -3.5}),
    ]
    assert ask(sink, "SELECT * FROM gap") == [(SOURCE, 12, START_MS, START_MS + 9, "dropped:bound", id_, 12)]
    assert ask(sink, "SELECT ended_ms FROM container") == [(START_MS + 10,)]


def test_numbers_are_known_after_a_restart_without_their_records(databases: Sqlite | Postgresql, tmp_path: Path) -> None:
    first = databases.sink(tmp_path)
    first.write([make_container(1), make_container(2)])
    first.close()
    second = databases.sink(tmp_path)
    second.write(
        [Event(START_MS, "oom", 2, {}, 5, SOURCE), Event(START_MS, "clock_step", None, {}, 6, SOURCE), End(2, START_MS, 7)]
    )
    assert ask(second, "SELECT path, ended_ms FROM container JOIN event ON container = id") == [(f"/docker/{2:064x}", START_MS)]
    assert ask(second, "SELECT DISTINCT source FROM event") == [(SOURCE,)]
    second.close()


def test_number_that_nobody_named_is_refused(sink: SqlSink) -> None:
    schema = make_schema()
    batch = Batch((make_sample(schema, 9, cpu_usage_ns=1),), (1,), {schema.id: schema}, {})
    with pytest.raises(PermanentError, match="no container record for number 9"):
        sink.write([batch])


def test_refused_write_stores_nothing_and_the_next_is_whole(sink: SqlSink) -> None:
    schema = make_schema()
    good = make_batch([make_sample(schema, 1, cpu_usage_ns=1)])
    bad = make_batch([make_sample(schema, 2, cpu_usage_ns=MAX_INT + 1)], first_row=2)
    with pytest.raises(PermanentError, match=r"too (large|big)"):
        sink.write([make_container(1), good, make_container(2), bad])
    assert ask(sink, "SELECT count(*) FROM container") == [(0,)]
    sink.write([good])
    assert everything(sink) == flat([good])


def test_metrics_without_a_column_go_to_custom(sink: SqlSink) -> None:
    """What a newer program sends: an unknown metric of `sample`, of a known table, and a table that does not exist."""
    fan = Metric("fan_speed", Kind.GAUGE, "count", "sample", "Turns.")
    drops = Metric("network_late", Kind.COUNTER, "count", "network", "Late.")
    gpu = Metric("gpu_ns", Kind.COUNTER, "ns", "gpu", "GPU time.")
    network = (*Catalogue().of_table("network"), drops)
    plain = make_schema(tables=())
    schema = Schema.of(
        (*plain.metrics, fan), (TableSchema("network", "interface", network), TableSchema("gpu", "card", (gpu,)))
    )
    tables = ((("eth0", *range(8), 77),), (("card0", 5), ("card1", None)))
    batch = make_batch([make_sample(schema, tables=tables, cpu_usage_ns=1, fan_speed=2**60 + 1)], schemas=(schema,))
    sink.write([batch])
    sink.write([batch])
    assert ask(sink, "SELECT metric, instance, value FROM custom ORDER BY 1") == [
        ("fan_speed", "", 2**60 + 1),
        ("gpu_ns", "card0", 5),
        ("network_late", "eth0", 77),
    ]
    assert everything(sink) == flat([batch])
    assert ("fan_speed", "gauge", "count", "sample", "Turns.") in ask(sink, "SELECT * FROM metric")


def test_optional_tables_hold_rows_only_with_values(sink: SqlSink) -> None:
    schema = make_schema(("cpu_usage_ns", "load1", "tasks_running"))
    samples = [
        make_sample(schema, ts_ms=START_MS, cpu_usage_ns=1, load1=0.5),
        make_sample(schema, ts_ms=START_MS + 1, cpu_usage_ns=2),
        make_sample(schema, ts_ms=START_MS + 2, cpu_usage_ns=3, tasks_running=0),
    ]
    sink.write([make_batch(samples, schemas=(schema,))])
    assert ask(sink, "SELECT ts_ms, load1 FROM sample_host") == [(START_MS, 0.5)]
    assert ask(sink, "SELECT ts_ms, tasks_running FROM sample_ext") == [(START_MS + 2, 0)]


def test_a_row_that_was_not_read_is_not_stored(sink: SqlSink) -> None:
    schema = make_schema(("cpu_usage_ns",), ("app",))
    rows = (("a", 1.0, *(None,) * 6), ("b", *(None,) * 7))
    sink.write([make_batch([make_sample(schema, cpu_usage_ns=1, tables=(rows,))], schemas=(schema,))])
    assert ask(sink, "SELECT series, app_counter FROM app") == [("a", 1.0)]


def test_not_a_number_is_no_value(sink: SqlSink) -> None:
    schema = make_schema(("cpu_usage_ns", "load1"), fragment=PLUGIN_METRICS)
    nan = make_sample(schema, cpu_usage_ns=1, load1=float("nan"), queue_age_seconds=float("nan"))
    batch = make_batch([nan], schemas=(schema,))
    sink.write([batch])
    sink.write([batch])
    assert everything(sink)[0][1] == {"cpu_usage_ns": 1}
    assert sink.conflict_rows == 0


def test_older_database_gets_the_columns_that_it_has(databases: Sqlite | Postgresql, tmp_path: Path) -> None:
    """A database that cannot be migrated now: the value without a column is not lost, it goes to `custom`."""
    sink = databases.sink(tmp_path)
    sink.open()
    sink.close()
    # on PostgreSQL views go with the column, as those of an older program would not have it
    ask(sink, f"ALTER TABLE sample DROP COLUMN memory_high_events {'' if sink.database.is_embedded else 'CASCADE'}")
    schema = make_schema(("cpu_usage_ns", "memory_high_events"))
    batch = make_batch([make_sample(schema, cpu_usage_ns=1, memory_high_events=4)], schemas=[schema])
    sink.write([batch])
    assert ask(sink, "SELECT metric, value FROM custom") == [("memory_high_events", 4)]
    assert everything(sink) == flat([batch])
    sink.close()


def test_database_of_a_newer_program_is_written_and_left_as_it_is(databases: Sqlite | Postgresql, tmp_path: Path) -> None:
    sink = databases.sink(tmp_path)
    sink.open()
    sink.close()
    ask(sink, "UPDATE alembic_version SET version_num = '7777'")
    ask(sink, "ALTER TABLE sample ADD COLUMN later BIGINT")
    batch = make_batch([make_sample(make_schema(), cpu_usage_ns=1)])
    sink.write([batch])
    assert everything(sink) == flat([batch])
    assert ask(sink, "SELECT version_num FROM alembic_version") == [("7777",)]
    sink.close()


@pytest.mark.parametrize(("versions", "words"), [((2, 3), "install a newer"), ((0, 0), "db upgrade")])
def test_database_says_which_writers_it_takes(
    databases: Sqlite | Postgresql, tmp_path: Path, versions: tuple[int, int], words: str
) -> None:
    sink = databases.sink(tmp_path)
    sink.open()
    sink.close()
    ask(sink, "UPDATE writer SET min_version = ?, max_version = ?", *versions)
    with pytest.raises(RetryableError, match=words) as caught:
        sink.open()
    assert caught.value.is_config_fault
    assert ask(sink, "SELECT count(*) FROM container") == [(0,)]


def test_history_gives_back_what_was_written(sink: SqlSink) -> None:
    records = list(generate_records(10))
    sink.write(records)
    history = SqlHistory(sink.database)
    batches = [r for r in records if isinstance(r, Batch)]
    samples = [s for b in batches for s in b.samples if s.container == 2]
    schema = next(r for r in records if isinstance(r, Schema))
    containers = [r for r in records if isinstance(r, Container)]
    try:
        points = history.points(containers[1].instance, None, None, None)
        assert [(p.ts_ms, p.is_closing) for p in points] == [(s.ts_ms, s.is_closing) for s in samples]
        for p, s in zip(points, samples, strict=True):
            assert p.values == {n: v for n, v in zip(schema.names, s.values, strict=True) if v is not None}
            assert bool(p.tables) == bool(s.tables)
        assert points[0].tables["network"]["lo"]["network_receive_bytes"] == 0
        assert "network_transmit_dropped" not in points[0].tables["network"]["lo"]
        first, last = samples[2].ts_ms, samples[7].ts_ms
        assert [p.ts_ms for p in history.points(containers[1].instance, first, last, None)] == [s.ts_ms for s in samples[2:8]]
        assert [p.ts_ms for p in history.points(containers[1].instance, first, last, 2)] == [s.ts_ms for s in samples[6:8]]
        assert history.points("no such", None, None, None) == []
        living = [msgspec.structs.replace(c, pairs=(), row=0) for c in containers if c.number != 3]
        assert live(sink) == sorted(living, key=lambda c: c.path)
    finally:
        history.close()


def test_history_reads_epochs_in_log_order(sink: SqlSink) -> None:
    schema = make_schema(fragment=PLUGIN_METRICS)
    first, second = make_container(1, "/a"), make_container(2, "/a", epoch=1)
    samples = [make_sample(schema, 1, START_MS + i, cpu_usage_ns=i, queue_depth=i) for i in range(3)]
    samples += [make_sample(schema, 2, START_MS - 9 + i, cpu_usage_ns=10 + i) for i in range(3)]
    sink.write([make_batch(samples, (first, second), (schema,))])
    history = SqlHistory(sink.database)
    try:
        assert [p.values["cpu_usage_ns"] for p in history.points(first.instance, None, None, None)] == [0, 1, 2, 10, 11, 12]
        assert [p.values["cpu_usage_ns"] for p in history.points(first.instance, None, None, 4)] == [2, 10, 11, 12]
        assert history.points(first.instance, None, None, 4)[0].values["queue_depth"] == 2
    finally:
        history.close()
