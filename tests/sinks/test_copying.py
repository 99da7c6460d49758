"""Copies of a SQL store, through the runner: to another, through Parquet files, interrupted and repeated."""

import contextlib
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
import sqlalchemy as sa
from tests.servers import Influxd, PostgresServer, need_influxd
from tests.sinks.databases import Postgresql

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, METRICS, SCALAR_TABLES
from tidegauge.pipeline.copying import SLICE_MS, Copied, Job, RecordSource, copy
from tidegauge.pipeline.errors import ConfigError, PermanentError, RetryableError
from tidegauge.pipeline.history import StoreError
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.records import Batch, End, Event, Gap, Kind, Metric, Record, Sample, Schema, Spec
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.testing import ListLog
from tidegauge.pipeline.testing.records import PLUGIN_METRICS, START_MS, make_container, make_schema
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.memory import MemoryConfig, MemorySink
from tidegauge.sinks.sql import tables_source
from tidegauge.sinks.sql.parquet import ParquetTables, export
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
from tidegauge.sinks.sql.sql_tables import SqlTables
from tidegauge.sinks.sql.tables import metadata
from tidegauge.sinks.sql.tables_source import TableRecords

TABLE_METRIC = Metric("gpu_memory_bytes", Kind.GAUGE, "bytes", "gpu", "Memory of one card.")
NOT_KEPT = {"container": ("id",), "writer": (), "alembic_version": ()}
"""What is each store's own."""


def sink_at(path: Path) -> SqlSink:
    return SqlSink(SqlConfig(url=f"sqlite:///{path}", retention_s=0))


def everything(seed: int = 1, ticks: int = 40) -> list[Record]:
    """A log with every record type, every table, plug-ins' metrics, late names, two epochs and a container that ends."""
    rng = random.Random(seed)
    wide = make_schema(
        [m.name for m in METRICS if m.table in SCALAR_TABLES],
        [t for t in INSTANCE_LABELS if t != "custom"],
        PLUGIN_METRICS,
    )
    gpu = msgspec.structs.replace(wide.tables[0], name="gpu", instance_label="instance", metrics=(TABLE_METRIC,))
    wide = Schema.of(wide.metrics, [*wide.tables, gpu])
    host = make_container(1, "/", name=None, image=None, labels={}, machine=Machine(), valid_from_ms=START_MS)
    web = make_container(2, valid_from_ms=START_MS, name=None, image=None, labels={})
    named = msgspec.structs.replace(web, valid_from_ms=START_MS + 1500, name="web", image="nginx", labels={"a": "b"})
    limited = msgspec.structs.replace(named, valid_from_ms=START_MS + 31_000, spec=Spec(memory_limit_bytes=1 << 30))
    again = msgspec.structs.replace(named, number=3, epoch=1, valid_from_ms=START_MS + 200_000)
    old = make_container(4, valid_from_ms=START_MS - 60_000)
    current = {c.number: c for c in (host, web, old)}
    records: list[Record] = [wide, host, web, old]
    row = 100
    for i in range(ticks):
        ts_ms = START_MS + i * 7_000 + rng.randrange(900)
        if i == 1:
            current[2] = named
            records.append(named)
        if i == 5:
            current[2] = limited
            records.append(limited)
        if i == 20:
            records += [End(4, ts_ms - 1), Event(ts_ms - 1, "deletion", 4, {"exit_code": 3}, row + 5000, old.source)]
            del current[4]
        if i == 29:
            current[3] = again
            records.append(again)
        samples = []
        for number in current:
            values = tuple(None if rng.random() < 0.2 else _value(rng, m) for m in wide.metrics)
            if number != 1:
                values = tuple(None if m.table == "sample_host" else v for m, v in zip(wide.metrics, values, strict=True))
            tables = tuple(
                None if rng.random() < 0.3 else tuple((name, *(_value(rng, m) for m in t.metrics)) for name in ("eth0", "lo"))
                for t in wide.tables
            )
            is_closing = number == 2 and i % 10 == 9
            samples.append(Sample(number, ts_ms + number, wide.id, values, () if is_closing else tables, is_closing))
        records.append(Batch(samples, range(row, row + len(samples)), {wide.id: wide}, dict(current)))
        row += len(samples)
        if i % 13 == 7:
            records.append(Gap(host.source, ts_ms + 100, ts_ms + 900, "stall", 2 if i > 10 else None, 4, row + 9000))
            records.append(Event(ts_ms + 50, "oom_kill", 2, {"pid": i, "text": "é\n"}, row + 9001, host.source))
    return records


def _value(rng: random.Random, metric: Metric) -> int | float:
    if metric.unit in ("seconds", "ratio", "number") or metric.name.startswith("load"):
        return rng.choice((0.0, 1.5, rng.random() * 1e9))
    return rng.choice((0, 1, rng.randrange(1 << 62), (1 << 63) - 1))


def filled(path: Path, records: Sequence[Record]) -> SqlSink:
    sink = sink_at(path)
    sink.open()
    for i in range(0, len(records), 7):
        sink.write(records[i : i + 7])
    sink.close()
    return sink


def rows_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table but roll-ups, which each store makes in its own time; numbers of containers are replaced by their keys."""
    conn = sqlite3.connect(path)
    keys = {row[0]: row[1:] for row in conn.execute("SELECT id, source, instance, epoch FROM container")}
    out = {}
    for table in metadata.tables:
        if table.startswith("rollup") or table.endswith(("_5m", "_1h")):
            continue
        cursor = conn.execute(f"SELECT * FROM {table}")
        names = [d[0] for d in cursor.description]
        drop = NOT_KEPT.get(table, ())
        rows = []
        for row in cursor:
            named = {n: v for n, v in zip(names, row, strict=True) if n not in drop}
            if "container" in named:
                named["container"] = keys.get(named["container"])
            rows.append(tuple((n, type(v).__name__, v) for n, v in named.items()))
        out[table] = sorted(rows, key=repr)
    conn.close()
    return out


def tables_of(path: Path) -> SqlTables:
    return SqlTables(sa.create_engine(f"sqlite:///file:{path}?mode=ro&uri=true"))


def run(
    source: RecordSource,
    sink: Any,
    folder: Path,
    *,
    since_ms: int = START_MS - 120_000,
    until_ms: int = START_MS * 2,
    stop_after: int | None = None,
) -> Copied:
    looks = 0

    def is_stopping() -> bool:
        nonlocal looks
        looks += 1
        return stop_after is not None and looks > stop_after

    span = Job(since_ms, until_ms)
    options = RunnerOptions(batch_rows=25, retry_min_s=0.01, retry_max_s=0.02)
    return copy(source, "copy", sink, options, folder, span, lambda ms: None, is_stopping)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    filled(tmp_path / "from.db", everything())
    return tmp_path / "from.db"


def test_everything_arrives_in_another_database(store: Path, tmp_path: Path) -> None:
    copied = run(TableRecords(tables_of(store)), sink_at(tmp_path / "to.db"), tmp_path / "copies")
    assert copied.is_whole
    assert copied.account.is_exact
    assert (copied.account.pending, copied.account.dead_letter, copied.dead_letters) == (0, 0, None)
    there, here = rows_of(tmp_path / "to.db"), rows_of(store)
    assert {t: len(r) for t, r in there.items()} == {t: len(r) for t, r in here.items()}
    for table in here:
        assert there[table] == here[table], table
    assert sum(map(len, here.values())) > 2000
    assert not list((tmp_path / "copies").iterdir())


def test_a_copy_again_changes_nothing(store: Path, tmp_path: Path) -> None:
    for _ in range(2):
        sink = sink_at(tmp_path / "to.db")
        assert run(TableRecords(tables_of(store)), sink, tmp_path / "copies").is_whole
        assert sink.conflict_rows == 0
    assert rows_of(tmp_path / "to.db") == rows_of(store)


class Slow:
    """Takes so many writes and is down from then on."""

    Config = SqlConfig

    def __init__(self, inner: SqlSink, writes: int) -> None:
        self.inner, self.left = inner, writes
        self.takes = inner.takes

    def open(self) -> None:
        self.inner.open()

    def write(self, records: Sequence[Record]) -> None:
        if self.left <= 0:
            raise RetryableError("down")
        self.left -= 1
        self.inner.write(records)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("writes", [0, 1, 2, 4])
def test_one_that_was_interrupted_goes_on(store: Path, tmp_path: Path, writes: int) -> None:
    source = TableRecords(tables_of(store))
    first = run(source, Slow(sink_at(tmp_path / "to.db"), writes), tmp_path / "copies", stop_after=3)
    assert not first.is_whole
    # its span stays that of the first call
    second = run(TableRecords(tables_of(store)), sink_at(tmp_path / "to.db"), tmp_path / "copies", until_ms=START_MS)
    assert second.is_whole
    assert second.account.is_exact
    assert second.account.written == second.account.accepted
    assert rows_of(tmp_path / "to.db") == rows_of(store)
    assert not list((tmp_path / "copies").iterdir())


def test_rows_that_the_sink_refuses_are_kept_with_the_reason(store: Path, tmp_path: Path) -> None:
    class Picky(Slow):
        def write(self, records: Sequence[Record]) -> None:
            if any(isinstance(r, Event) and r.kind == "oom_kill" for r in records):
                raise PermanentError("no OOM kills here")
            self.inner.write(records)

    copied = run(TableRecords(tables_of(store)), Picky(sink_at(tmp_path / "to.db"), 0), tmp_path / "copies")
    kills = sum(row[3][2] == "oom_kill" for row in rows_of(store)["event"])
    assert copied.is_whole
    assert copied.account.dead_letter == kills > 0
    assert copied.dead_letters is not None
    assert copied.dead_letters.stat().st_size > 0
    there, here = rows_of(tmp_path / "to.db"), rows_of(store)
    assert len(there.pop("event")) == len(here.pop("event")) - kills
    assert there == here


def test_names_that_came_soon_stand_at_the_first_sample(store: Path, tmp_path: Path) -> None:
    source = TableRecords(tables_of(store))
    start_ms = START_MS // SLICE_MS * SLICE_MS
    slice_ = [t.record for at in range(2) for t in source.records(start_ms + at * SLICE_MS, start_ms + (at + 1) * SLICE_MS)]
    numbers = {c.number: c for c in source.heads(START_MS * 2) if not isinstance(c, Schema) and c.name == "web"}
    first = next(i for i, r in enumerate(slice_) if isinstance(r, Sample) and r.container in numbers)
    names = [r.name for r in slice_[:first] if not isinstance(r, Sample | Schema | Event | Gap | End) and r.number in numbers]
    assert names == [None, "web"]


def test_through_parquet_and_back(store: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    rows, files = export(tables_of(store), tmp_path / "archive", 0, START_MS * 2, seen.append)
    assert rows > 2000
    assert files == len(list((tmp_path / "archive").rglob("*.parquet")))
    assert seen == sorted(seen)
    copied = run(TableRecords(ParquetTables(tmp_path / "archive")), sink_at(tmp_path / "to.db"), tmp_path / "copies")
    assert copied.is_whole
    there, here = rows_of(tmp_path / "to.db"), rows_of(store)
    for table in here:
        assert there[table] == here[table], table


@pytest.mark.parametrize("is_parquet", [False, True])
def test_a_quiet_time_before_a_busy_one_has_no_more_rows_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_parquet: bool
) -> None:
    monkeypatch.setattr(tables_source, "_MANY_ROWS", 200)
    schema = make_schema(("cpu_usage_ns",), ())
    busy_ms = START_MS + 50 * 60_000
    samples = [Sample(1, START_MS + minute * 60_000, schema.id, (minute,)) for minute in range(50)]
    samples += [Sample(n, busy_ms + s * 1000, schema.id, (s,)) for s in range(120) for n in range(1, 21)]
    containers = {n: make_container(n, f"/c/{n}") for n in range(1, 21)}
    batch = Batch(samples, range(len(samples)), {schema.id: schema}, containers)
    filled(tmp_path / "a.db", [schema, *containers.values(), batch]).close()
    tables: SqlTables | ParquetTables = tables_of(tmp_path / "a.db")
    if is_parquet:
        export(tables, tmp_path / "archive", 0, START_MS * 2, lambda ms: None)
        tables = ParquetTables(tmp_path / "archive")
    with mock.patch.object(tables, "rows", wraps=tables.rows) as reads:
        assert run(TableRecords(tables), sink_at(tmp_path / "to.db"), tmp_path / "copies").is_whole
    counts = [len(tables.rows("sample", *call.args[1:])) for call in reads.mock_calls if call.args[0] == "sample"]
    assert sum(counts) == len(samples)
    assert max(counts) <= 400, "so many and a slice"
    assert len(counts) < 40
    assert rows_of(tmp_path / "to.db")["sample"] == rows_of(tmp_path / "a.db")["sample"]


def test_files_that_were_packed_otherwise_are_read_alike(store: Path, tmp_path: Path) -> None:
    """As older versions did, and as other programs may that join or split files."""
    from pyarrow import parquet

    export(tables_of(store), tmp_path / "archive", 0, START_MS * 2, lambda ms: None)
    for i, file in enumerate((tmp_path / "archive").rglob("*.parquet")):
        how = {"compression": "snappy", "row_group_size": 100} if i % 2 else {"compression": "zstd"}
        parquet.write_table(parquet.read_table(file), file, **how)
    assert run(TableRecords(ParquetTables(tmp_path / "archive")), sink_at(tmp_path / "to.db"), tmp_path / "copies").is_whole
    there, here = rows_of(tmp_path / "to.db"), rows_of(store)
    for table in here:
        assert there[table] == here[table], table


def test_parquet_files_are_sorted_and_packed(store: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    export(tables_of(store), tmp_path / "archive", 0, START_MS * 2, lambda ms: None)
    for file in (tmp_path / "archive" / "sample").glob("*.parquet"):
        table = parquet.read_table(file)
        keys = list(zip(table["container"].to_pylist(), table["ts_ms"].to_pylist(), strict=True))
        assert keys == sorted(keys)
        assert parquet.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"


def test_an_export_of_a_span_has_its_hours(store: Path, tmp_path: Path) -> None:
    hour_ms = 3_600_000
    export(tables_of(store), tmp_path / "archive", 0, START_MS - hour_ms, lambda ms: None)
    assert not (tmp_path / "archive" / "sample").exists()
    assert (tmp_path / "archive" / "container.parquet").exists()


def test_a_folder_that_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"container\.parquet"):
        ParquetTables(tmp_path)


def test_a_damaged_file_ends_the_import_and_says_which(store: Path, tmp_path: Path) -> None:
    export(tables_of(store), tmp_path / "archive", 0, START_MS * 2, lambda ms: None)
    file = next((tmp_path / "archive" / "sample").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StoreError, match=file.name):
        run(TableRecords(ParquetTables(tmp_path / "archive")), sink_at(tmp_path / "to.db"), tmp_path / "copies")


def test_a_database_without_our_tables(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE a (b)")
    with pytest.raises(StoreError, match="no tables of tidegauge"):
        tables_of(tmp_path / "other.db")


def test_a_sink_that_keeps_nothing_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a store that lasts"):
        run(TableRecords(tables_of(store)), MemorySink(MemoryConfig()), tmp_path / "copies")


def test_numbers_that_two_containers_bear_are_told_apart(tmp_path: Path) -> None:
    records = everything()
    filled(tmp_path / "from.db", records)
    other = "11111111-2222-3333-4444-555555555555"
    for i, record in enumerate(records):
        if isinstance(record, Batch):
            there = {n: msgspec.structs.replace(c, source=other) for n, c in record.containers.items()}
            records[i] = msgspec.structs.replace(record, containers=there)
        elif hasattr(record, "source"):
            records[i] = msgspec.structs.replace(record, source=other)
    filled(tmp_path / "from.db", records)
    assert run(TableRecords(tables_of(tmp_path / "from.db")), sink_at(tmp_path / "to.db"), tmp_path / "copies").is_whole
    copied, stored = rows_of(tmp_path / "to.db"), rows_of(tmp_path / "from.db")
    assert len(copied["container"]) == 8
    assert copied == stored


@pytest.mark.integration
def test_influxdb_gets_what_the_journal_would_have_given_it(tmp_path: Path) -> None:
    need_influxd()
    log, records = ListLog(), everything()
    for record in records:
        log.append(record)
    log.tell()
    with Influxd(tmp_path / "influxd") as server:
        live, copied = (InfluxdbSink(InfluxdbConfig(url=server.url, database=name)) for name in ("live", "copied"))
        runner = SinkRunner(
            "influxdb",
            live,
            RunnerOptions(flush_interval_s=0, lag_age_s=1e9),
            journal_folder=tmp_path,
            state_folder=tmp_path,
            log_end=log.end,
            source="",
            log=log,
        )
        while runner.step() == 0:
            pass
        assert runner.account().pending == runner.account().dead_letter == 0
        filled(tmp_path / "from.db", records)
        assert run(TableRecords(tables_of(tmp_path / "from.db")), copied, tmp_path / "copies").is_whole
        for measurement in ("container", "host", "network", "disk_io", "gap", "event", "container_info"):
            # the rows of a log in memory begin at 1
            found = [
                sorted(
                    (
                        {k: v for k, v in row.items() if k != "row"}
                        for row in server.query(f'SELECT * FROM "{measurement}"', name)
                    ),
                    key=repr,
                )
                for name in ("live", "copied")
            ]
            assert found[0], measurement
            assert found[1] == found[0], measurement


@pytest.mark.integration
def test_through_postgresql_and_back(store: Path, tmp_path: Path, postgres: PostgresServer) -> None:
    middle = Postgresql(postgres).sink(tmp_path, retention_s=0)
    assert run(TableRecords(tables_of(store)), middle, tmp_path / "copies").is_whole
    source = middle.records()
    copied = run(source, sink_at(tmp_path / "to.db"), tmp_path / "copies")
    source.close()
    assert copied.is_whole
    there, here = rows_of(tmp_path / "to.db"), rows_of(store)
    for table in here:
        assert there[table] == here[table], table


def test_duckdb_asks_the_files_as_the_page_says(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(tables_of(store), tmp_path / "archive", 0, START_MS * 2, lambda ms: None)
    page = (Path(__file__).parents[2] / "docs" / "copying.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace("/backup/tidegauge", str(tmp_path / "archive"))
    exec(code, {})
    conn = sqlite3.connect(store)
    most = conn.execute("SELECT max(memory_working_set_bytes) / 1048576.0 FROM sample").fetchone()[0]
    assert str(most) in capsys.readouterr().out.replace(" ", "")
    conn.close()


def test_fractions_and_large_numbers_in_a_column_of_whole_numbers_are_not_cut(store: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as conn:
        conn.execute("UPDATE sample SET memory_cache_bytes = 4096 WHERE memory_cache_bytes IS NOT NULL")
        conn.execute("UPDATE sample SET memory_cache_bytes = 1.5 WHERE ts_ms = (SELECT max(ts_ms) FROM sample)")
        conn.commit()
    export(tables_of(store), tmp_path / "archive", 0, START_MS * 2, lambda ms: None)
    assert run(TableRecords(ParquetTables(tmp_path / "archive")), sink_at(tmp_path / "to.db"), tmp_path / "copies").is_whole
    assert rows_of(tmp_path / "to.db")["sample"] == rows_of(store)["sample"]


def test_a_text_in_a_column_of_numbers_is_said(store: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as conn:
        conn.execute("UPDATE sample SET memory_cache_bytes = 'much' WHERE ts_ms = (SELECT max(ts_ms) FROM sample)")
        conn.commit()
    with pytest.raises(StoreError, match=r"sample\.memory_cache_bytes: expected numbers"):
        export(tables_of(store), tmp_path / "archive", 0, START_MS * 2, lambda ms: None)


def test_a_container_that_comes_during_an_export_is_in_it(store: Path, tmp_path: Path) -> None:
    def come(_: int) -> None:
        if not late:
            late.append(make_container(77, "/docker/late", source="77777777-2222-3333-4444-555555555555"))
            filled(store, late)

    late: list[Record] = []
    export(tables_of(store), tmp_path / "archive", 0, START_MS * 2, come)
    from pyarrow import parquet

    names = parquet.read_table(tmp_path / "archive" / "container.parquet")["path"].to_pylist()
    assert "/docker/late" in names
