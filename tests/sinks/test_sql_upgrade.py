"""A database from before there were roll-ups, with samples in it."""

from pathlib import Path

from tests.sinks.databases import Postgresql, Sqlite, ask
from tests.sinks.test_sql_rollup_retention import HOUR_MS, START_MS, fill, maintain

from tidegauge.sinks.sql import migrate
from tidegauge.sinks.sql.sink import SqlSink
from tidegauge.sinks.sql.tables import REVISION
from tidegauge.sinks.sql.tables_rollup import ROLLUP_TABLES

FOR_EVER = {"retention_s": 0.0, "rollup_5m_retention_s": 0.0, "rollup_1h_retention_s": 0.0, "retention_bytes": 0}


def rollups(sink: SqlSink) -> list[list[tuple[object, ...]]]:
    return [ask(sink, f"SELECT * FROM {table} ORDER BY container, ts_ms") for table in ROLLUP_TABLES]


def test_roll_ups_are_made_of_the_samples_that_were_there_before(databases: Sqlite | Postgresql, tmp_path: Path) -> None:
    sink = databases.sink(tmp_path, **FOR_EVER)
    sink.open()
    fill(sink, to_ms=START_MS + 3 * HOUR_MS)
    now_ms = START_MS + 4 * HOUR_MS
    maintain(sink, now_ms)
    expected = rollups(sink)
    sink.close()
    for table in (*ROLLUP_TABLES, "rollup_dirty", "rollup_deleted"):
        ask(sink, f"DROP TABLE {table}")
    ask(sink, "UPDATE alembic_version SET version_num = '0002'")
    migrate.upgrade(sink.database)
    assert migrate.current(sink.database) == REVISION
    sink.open()
    maintain(sink, now_ms)
    assert rollups(sink) == expected
    assert all(expected[:2]), "there are some"
    sink.close()
