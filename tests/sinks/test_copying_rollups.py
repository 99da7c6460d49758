"""What a SQL store knows beyond its samples goes along: roll-ups older than they are, true first and last samples, numbers."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.sinks.databases import Postgresql, Sqlite, ask, dicts
from tests.sinks.test_copying import Slow, run
from tests.sinks.test_sql_rollup_retention import (
    HOUR_MS,
    NETWORK,
    SCHEMA,
    START_MS,
    STEP_MS,
    fill,
    maintain,
    span,
)

from tidegauge.pipeline.history import StoreError
from tidegauge.pipeline.testing import make_batch, make_container, make_sample
from tidegauge.sinks.sql import parquet
from tidegauge.sinks.sql.parquet import ParquetTables, export
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
from tidegauge.sinks.sql.tables import metadata
from tidegauge.sinks.sql.tables_source import TableRecords

MIDNIGHT_MS = START_MS + 3 * 24 * HOUR_MS
FIRST_MS, LAST_MS = MIDNIGHT_MS - 4 * HOUR_MS, MIDNIGHT_MS + 4 * HOUR_MS
NOW_MS = LAST_MS + 22 * 60_000 + 30_000
AGES = {"retention_s": 7200.0, "rollup_5m_retention_s": 6 * 3600.0, "rollup_1h_retention_s": 0.0}
"""So of eight hours the last two have samples (on PostgreSQL those since midnight), six 5 minutes, and hours tell of all."""
FOR_EVER: dict[str, Any] = {**dict.fromkeys(AGES, 0.0), "retention_bytes": 0}


def worn(databases: Sqlite | Postgresql, folder: Path) -> SqlSink:
    """A store of eight hours, and of two of another container before, after retention; the newest 5 minutes are not made."""
    sink = databases.sink(folder, retention_bytes=0, **AGES)
    sink.agent = "an agent"
    fill(sink, (2,))
    fill(sink, (1,), FIRST_MS, LAST_MS)
    maintain(sink, NOW_MS)
    fill(sink, (1,), LAST_MS, NOW_MS)
    sink.close()
    return sink


@pytest.fixture
def store(databases: Sqlite | Postgresql, tmp_path: Path) -> SqlSink:
    return worn(databases, tmp_path / "from")


def empty(folder: Path) -> SqlSink:
    """To copy to; it deletes nothing."""
    return SqlSink(SqlConfig(url=f"sqlite:///{folder / 'to.db'}", **FOR_EVER))


def rows_of(sink: SqlSink) -> dict[str, list[str]]:
    """Every row of every table but marks, which are work to do; ids are replaced by keys."""
    keys = {row[0]: row[1:] for row in ask(sink, "SELECT id, source, instance, epoch FROM container")}
    out = {}
    for table in sorted(set(metadata.tables) - {"rollup_dirty", "alembic_version", "writer"}):
        rows = []
        for row in dicts(sink, f"SELECT * FROM {table}"):
            if table == "container":
                del row["id"]
            if "container" in row:
                row["container"] = keys[row["container"]]
            rows.append(repr(sorted((name, int(v) if isinstance(v, bool) else v) for name, v in row.items())))
        out[table] = sorted(rows)
    return out


def same(one: SqlSink, other: SqlSink) -> None:
    there, here = rows_of(other), rows_of(one)
    assert {t: len(rows) for t, rows in there.items()} == {t: len(rows) for t, rows in here.items()}
    for table, rows in here.items():
        assert there[table] == rows, table


def through_parquet(sink: SqlSink, folder: Path) -> TableRecords:
    tables = sink.tables()
    export(tables, folder, 0, NOW_MS, lambda ms: None)
    tables.close()
    return TableRecords(ParquetTables(folder))


def test_everything_arrives(store: SqlSink, tmp_path: Path) -> None:
    here = rows_of(store)
    target, again = empty(tmp_path / "to"), empty(tmp_path / "again")
    for to, source in ((target, store.records()), (again, through_parquet(store, tmp_path / "archive"))):
        copied = run(source, to, tmp_path / "copies", since_ms=0)
        source.close()
        assert copied.is_whole
        assert copied.taken_along == sum(len(rows) for table, rows in here.items() if table.endswith(("_5m", "_1h"))) > 150
        same(store, to)
    # what was not made yet is made alike; nothing is made again of what is left of samples that were deleted
    origin = SqlSink(msgspec.structs.replace(store._config, **FOR_EVER))
    for sink in (origin, target):
        sink.open()
        maintain(sink, NOW_MS + HOUR_MS)
        sink.close()
    same(origin, target)
    assert len(rows_of(target)["sample_5m"]) > len(here["sample_5m"])


def test_beside_another_agent_s_rows_the_roll_up_that_knows_more_stays(databases: Sqlite | Postgresql, tmp_path: Path) -> None:
    store = worn(Sqlite(), tmp_path / "from")
    source = store.records()
    target = databases.sink(tmp_path / "to", **FOR_EVER)
    target.agent = "another agent"
    other = make_container(1, "/docker/other", source="another", valid_from_ms=FIRST_MS)
    samples = [make_sample(SCHEMA, 1, ts_ms, (NETWORK,), cpu_usage_ns=ts_ms) for ts_ms in range(FIRST_MS, LAST_MS, STEP_MS)]
    target.write([other])
    target.write([make_batch(samples, schemas=(SCHEMA,), containers=(other,))])
    target.close()
    # the samples alone: of these it makes roll-ups that know less than the source's
    target.agent = "copy"
    assert run(source, Slow(target, 10**6), tmp_path / "copies", since_ms=0).is_whole
    target.open()
    maintain(target, NOW_MS + HOUR_MS)
    target.close()
    for _ in range(2):
        assert run(source, target, tmp_path / "copies", since_ms=0).is_whole
    for sink in (target, SqlSink(msgspec.structs.replace(store._config, **FOR_EVER))):
        sink.open()
        maintain(sink, NOW_MS + HOUR_MS)
        sink.close()
    there, here = rows_of(target), rows_of(store)
    for table in ("sample_5m", "sample_1h", "sample_network_5m", "sample_network_1h", "container", "container_span"):
        assert [row for row in there[table] if "'another'" not in row] == here[table], table
    ((count,),) = ask(target, "SELECT count(*) FROM sample_1h JOIN container c ON c.id = container WHERE source = 'another'")
    assert count == 8, "of the other agent's samples all roll-ups are made"


def test_one_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    store, target = worn(Sqlite(), tmp_path / "from"), empty(tmp_path)
    copies = tmp_path / "copies"
    while not (copied := run(store.records(), target, copies, since_ms=0, stop_after=3)).taken_along:
        assert not copied.is_whole
    assert not copied.is_whole
    assert list(copies.glob("*.job"))
    assert run(store.records(), target, copies, since_ms=0).is_whole
    assert not list(copies.iterdir())
    same(store, target)


def test_a_span_takes_its_own(tmp_path: Path) -> None:
    store, target = worn(Sqlite(), tmp_path / "from"), empty(tmp_path)
    since_ms, until_ms = FIRST_MS + HOUR_MS, FIRST_MS + 7 * HOUR_MS
    assert run(store.records(), target, tmp_path / "copies", since_ms=since_ms, until_ms=until_ms).is_whole
    assert span(target, "sample_1h") == (since_ms, until_ms - HOUR_MS)
    ((first_ms, last_ms),) = ask(target, "SELECT first_ms, last_ms FROM container_span")
    assert (since_ms, until_ms - 1) == (first_ms, last_ms), "the other ended before"


def test_files_hold_a_day_or_a_month(tmp_path: Path) -> None:
    store = worn(Sqlite(), tmp_path / "from")
    through_parquet(store, tmp_path / "archive")
    first = datetime.fromtimestamp(START_MS / 1000, UTC)
    assert [f.stem for f in (tmp_path / "archive" / "sample_1h").iterdir()] == [f"{first:%Y-%m}"]
    days = sorted(f.stem for f in (tmp_path / "archive" / "sample_5m").iterdir())
    assert days == sorted(
        {f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}" for (ms,) in ask(store, "SELECT ts_ms FROM sample_5m")}
    )
    assert len(days) == 2
    assert {name for name, _ in parquet.views(tmp_path / "archive")} >= {
        "sample_5m",
        "sample_1h",
        "sample_network_1h",
        "sample",
    }
    # an archive of a program that knew none of this
    (tmp_path / "archive" / "rollup_deleted.parquet").unlink()
    assert run(TableRecords(ParquetTables(tmp_path / "archive")), empty(tmp_path), tmp_path / "copies", since_ms=0).is_whole


def test_a_file_of_another_name_is_said(tmp_path: Path) -> None:
    through_parquet(worn(Sqlite(), tmp_path / "from"), tmp_path / "archive")
    (tmp_path / "archive" / "sample_5m" / "mine.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match=r"expected a name such as 2026-11-23\.parquet"):
        run(TableRecords(ParquetTables(tmp_path / "archive")), empty(tmp_path), tmp_path / "copies", since_ms=0)
