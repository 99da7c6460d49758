"""What goes wrong under the SQL sink where a PostgreSQL server holds its tables, and what several agents on one of them do."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import sqlalchemy as sa
from tests.servers import PostgresServer, free_port
from tests.sinks.databases import Postgresql, ask, everything
from tests.support import need

from tidegauge.pipeline.errors import PermanentError, RetryableError
from tidegauge.pipeline.records import Batch, End, Event, Gap, Record
from tidegauge.pipeline.testing import START_MS, flat, generate_records, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql import migrate
from tidegauge.sinks.sql.database import open_database
from tidegauge.sinks.sql.partitions import DAY_MS, partition_name
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

pytestmark = pytest.mark.integration

PASSWORD = PostgresServer.password


@pytest.fixture
def sink(postgresql: Postgresql, tmp_path: Path) -> Iterator[SqlSink]:
    sink = postgresql.sink(tmp_path)
    sink.open()
    yield sink
    sink.close()


def name_of(sink: SqlSink) -> str:
    return str(sa.make_url(sink.url).database)


def one(ts_ms: int = START_MS, **values: Any) -> Batch:
    return make_batch([make_sample(make_schema(), ts_ms=ts_ms, **(values or {"cpu_usage_ns": 1}))])


def count(sink: SqlSink, table: str = "sample") -> int:
    return int(ask(sink, f"SELECT count(*) FROM {table}")[0][0])


def refused(sink: SqlSink) -> RetryableError:
    """The error of an open that is a fault of the configuration; no password stands in it."""
    with pytest.raises(RetryableError) as caught:
        sink.open()
    assert caught.value.is_config_fault, caught.value
    assert PASSWORD not in str(caught.value)
    assert "wrong-word" not in str(caught.value)
    sink.close()
    return caught.value


def test_wrong_password_role_and_database_are_named(postgresql: Postgresql, tmp_path: Path) -> None:
    url = postgresql.url(tmp_path)
    where = url.replace("+psycopg", "")
    port = postgresql.server.port
    error = refused(SqlSink(SqlConfig(url=url, password="wrong-word")))
    assert str(error).startswith(where)
    assert 'password authentication failed for user "agent"' in str(error)
    assert "no password supplied" in str(refused(SqlSink(SqlConfig(url=url))))
    nobody = postgresql.server.url("postgres", "nobody-here")
    assert "nobody-here" in str(refused(SqlSink(SqlConfig(url=nobody, password=PASSWORD))))
    nowhere = postgresql.server.url("nowhere", "agent")
    assert 'database "nowhere" does not exist' in str(refused(SqlSink(SqlConfig(url=nowhere, password=PASSWORD))))
    assert f":{port}/nowhere" in str(refused(SqlSink(SqlConfig(url=nowhere, password=PASSWORD))))


def test_password_file_is_read_at_each_connection(postgresql: Postgresql, tmp_path: Path) -> None:
    file = tmp_path / "password"
    sink = SqlSink(SqlConfig(url=postgresql.url(tmp_path), password_file=file))
    assert str(file) in str(refused(sink))
    file.write_text("wrong-word\n")
    refused(sink)
    file.write_text(PASSWORD + "\n")
    sink.write([one()])
    assert count(sink) == 1
    sink.close()


def test_configuration_does_not_show_the_password() -> None:
    config = SqlConfig(url="postgresql+psycopg://agent@db/x", password=PASSWORD)
    assert PASSWORD not in repr(config)
    assert PASSWORD not in repr(SqlSink(config).database.writing_engine())


def test_server_that_is_not_there_is_no_fault_of_the_configuration() -> None:
    port = free_port()
    sink = SqlSink(SqlConfig(url=f"postgresql+psycopg://agent@127.0.0.1:{port}/a", password=PASSWORD))
    with pytest.raises(RetryableError, match=f"^postgresql://agent@127.0.0.1:{port}/a: .*refused") as caught:
        sink.open()
    assert not caught.value.is_config_fault


def test_database_without_tables_says_what_to_run(postgres: PostgresServer) -> None:
    postgres.sql("DROP DATABASE IF EXISTS bare")
    sink = SqlSink(SqlConfig(url=postgres.database("bare"), password=PASSWORD))
    assert str(refused(sink)).endswith("/bare: expected tables of tidegauge, got none: run `tidegauge db upgrade`")


def test_database_that_may_only_be_read(postgresql: Postgresql, sink: SqlSink) -> None:
    sink.close()
    postgresql.server.sql(f"ALTER DATABASE {name_of(sink)} SET default_transaction_read_only = on")
    with pytest.raises(RetryableError, match=r"read-only transaction \(25006\)") as caught:
        sink.write([one()])
    assert caught.value.is_config_fault
    postgresql.server.sql(f"ALTER DATABASE {name_of(sink)} RESET default_transaction_read_only")
    sink.write([one()])
    assert count(sink) == 1


def test_role_without_rights(postgresql: Postgresql, sink: SqlSink) -> None:
    server = postgresql.server
    server.sql("DROP ROLE IF EXISTS stranger")
    server.role("stranger")
    other = SqlSink(SqlConfig(url=server.url(name_of(sink), "stranger"), password=PASSWORD))
    assert "permission denied for table" in str(refused(other))
    server.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO stranger", database=name_of(sink))
    server.sql("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO stranger", database=name_of(sink))
    # Partitions are made by who owns the table.
    with pytest.raises(RetryableError, match=r"permission denied for schema public|must be owner of") as caught:
        other.write([one()])
    assert caught.value.is_config_fault
    other.close()
    server.sql("DROP OWNED BY stranger", database=name_of(sink))
    server.sql("DROP ROLE stranger")


def test_dropped_table_is_a_fault_to_mend(postgresql: Postgresql, sink: SqlSink) -> None:
    postgresql.server.sql("DROP TABLE event CASCADE", database=name_of(sink))
    with pytest.raises(RetryableError, match='relation "event" does not exist') as caught:
        sink.write([one(), Event(START_MS, "oom", None, {}, 4)])
    assert caught.value.is_config_fault
    assert count(sink) == 0


def test_connection_that_was_cut_is_made_anew(postgresql: Postgresql, sink: SqlSink) -> None:
    records = list(generate_records(10))
    sink.write(records[:8])
    postgresql.server.disconnect(name_of(sink))
    with pytest.raises(RetryableError, match="terminat") as caught:
        sink.write(records)
    assert not caught.value.is_config_fault
    sink.write(records)
    assert sorted(everything(sink)) == sorted(flat(records))
    assert sink.conflict_rows == 0


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "text in a number", {"a": 1}, 1.5])
def test_values_that_no_column_takes(sink: SqlSink, value: Any) -> None:
    with pytest.raises(PermanentError):
        sink.write([one(cpu_usage_ns=value)])
    assert count(sink) == 0
    sink.write([one()])
    assert count(sink) == 1


@pytest.mark.parametrize("text", ["nul \0", "half \udc80"])
def test_names_that_no_column_takes(sink: SqlSink, text: str) -> None:
    with pytest.raises(PermanentError):
        sink.write([make_container(name=text), one()])
    sink.write([one()])
    assert count(sink) == 1


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """For tests that take it away."""
    from tests.servers import need_postgres

    need_postgres()
    with PostgresServer() as server:
        yield server


def lasting_sink(server: PostgresServer) -> SqlSink:
    sink = SqlSink(SqlConfig(url=server.database("a", server.role("agent")), password=PASSWORD))
    migrate.upgrade(sink.database)
    return sink


def test_server_that_stops_and_comes_back(own_server: PostgresServer) -> None:
    sink = lasting_sink(own_server)
    records = list(generate_records(30))
    sink.write(records[:12])
    own_server.stop()
    for _ in range(2):
        with pytest.raises(RetryableError) as caught:
            sink.write(records[8:20])
        assert not caught.value.is_config_fault, caught.value
    own_server.start()
    sink.write(records[8:])
    assert sorted(everything(sink)) == sorted(flat(records))
    assert sink.conflict_rows == 0
    sink.close()


def test_server_killed_in_the_middle_of_a_transaction(own_server: PostgresServer) -> None:
    """After its rows were sent, before it was asked to commit: nothing of it is there, and a repeat is whole."""
    sink = lasting_sink(own_server)
    records = list(generate_records(30))
    sink.write(records[:12])
    assert sink._store is not None
    before, whole = count(sink), sink._store.write

    def killed(some: list[Record]) -> int:
        conflicts = whole(some)
        own_server.kill()
        return conflicts

    sink._store.write = killed  # type: ignore[method-assign, assignment]
    with pytest.raises(RetryableError) as caught:
        sink.write(records)
    assert not caught.value.is_config_fault, caught.value
    own_server.start()
    assert count(sink) == before
    sink.write(records)
    assert sorted(everything(sink)) == sorted(flat(records))
    assert sink.conflict_rows == 0
    sink.close()


WRITER = """
import sys
from pathlib import Path
from tidegauge.pipeline.testing import generate_records
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
sink = SqlSink(SqlConfig(url=sys.argv[1], password=sys.argv[2]))
for i, record in enumerate(generate_records(100_000, containers=20)):
    sink.write([record])
    print(i, flush=True)
"""


@pytest.mark.parametrize("after", [1, 30, 130])
def test_kill_9_of_the_writer_loses_no_write_that_returned(postgresql: Postgresql, tmp_path: Path, after: int) -> None:
    command = [sys.executable, "-c", WRITER, postgresql.url(tmp_path), PASSWORD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = -1
        for line in child.stdout:
            last = int(line)
            if last >= after:
                child.kill()
                break
        rest = child.stdout.read().split()
        last = int(rest[-1]) if rest else last
    sink = postgresql.sink(tmp_path)
    postgresql.server.disconnect(name_of(sink))
    records = []
    for i, record in enumerate(generate_records(100_000, containers=20)):
        if i > last + 1:
            break
        records.append(record)
    assert count(sink) in (len(flat(records[: last + 1])), len(flat(records)))
    sink.write(records)
    assert sorted(everything(sink)) == sorted(flat(records))
    assert sink.conflict_rows == 0
    sink.close()


def test_full_disk(tmp_path: Path, own_server: PostgresServer) -> None:
    """Partitions lie on a small file system."""
    mount = own_server.folder / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tidegauge-test", mount], check=False, capture_output=True)
    need(done.returncode == 0, "the right to mount a tmpfs")
    try:
        folder = mount / "data"
        folder.mkdir()
        os.chown(folder, os.stat(own_server.data).st_uid, -1)
        sink = lasting_sink(own_server)
        own_server.sql(f"CREATE TABLESPACE small LOCATION '{folder}'")
        own_server.sql("GRANT CREATE ON TABLESPACE small TO agent")
        own_server.sql("ALTER ROLE agent SET default_tablespace = small")
        records = list(generate_records(2000, containers=5))
        with pytest.raises(RetryableError, match="No space left on device") as caught:
            for start in range(0, len(records), 100):
                sink.write(records[start : start + 100])
        assert not caught.value.is_config_fault
        subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
        sink.write(records)
        assert count(sink) == len(flat(records))
        assert sink.conflict_rows == 0
        sink.close()
    finally:
        own_server.stop()
        subprocess.run(["umount", "-l", mount], check=True)


# Partitions


def days_of(sink: SqlSink, table: str = "sample") -> list[str]:
    found = ask(sink, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(?) ORDER BY 1", table)
    return [name for (name,) in found]


def test_late_rows_and_rows_of_two_days_find_their_partitions(sink: SqlSink) -> None:
    today = START_MS // DAY_MS
    midnight = (today + 1) * DAY_MS
    sink.write([make_batch([make_sample(make_schema(), ts_ms=midnight + i, cpu_usage_ns=1) for i in (-1, 0)])])
    assert days_of(sink) == ["sample_p20231114", "sample_p20231115"]
    sink.write([one(START_MS - 40 * DAY_MS), one(-1), one(START_MS)])
    assert days_of(sink) == ["sample_p19691231", "sample_p20231005", "sample_p20231114", "sample_p20231115"]
    assert count(sink) == 5
    assert days_of(sink, "sample_network") == [], "no rows, no partition"
    assert partition_name("sample", 10**7) == "sample_d10000000", "beyond the calendar"


def test_partition_of_tomorrow_is_made_ahead(sink: SqlSink) -> None:
    schema = make_schema()
    network = (("eth0", *range(8)),)
    sink.write([make_batch([make_sample(schema, tables=(network,), cpu_usage_ns=1)], schemas=(schema,)), one(-1)])
    assert sink._conn is not None
    for _ in range(2):
        sink.database.make_ahead(sink._conn, START_MS)
        assert days_of(sink, "sample_network") == ["sample_network_p20231114", "sample_network_p20231115"]
        assert days_of(sink) == ["sample_p19691231", "sample_p20231114", "sample_p20231115"]
    sink.database.make_ahead(sink._conn, START_MS + 100 * DAY_MS)
    assert len(days_of(sink)) == 3, "a table without rows of these days needs none"
    sink.write([one(START_MS + DAY_MS)])
    assert count(sink) == 3


def test_maintenance_makes_tomorrow_s_partition_once_an_hour(sink: SqlSink) -> None:
    sink.write([one()])
    sink.maintain(START_MS, lambda: False)
    assert days_of(sink) == ["sample_p20231114", "sample_p20231115"]
    ask(sink, "DROP TABLE sample_p20231115")
    sink.maintain(START_MS + 3_599_999, lambda: False)
    assert days_of(sink) == ["sample_p20231114"]
    sink.maintain(START_MS + 3_600_000, lambda: False)
    assert days_of(sink) == ["sample_p20231114", "sample_p20231115"]


def test_partition_that_somebody_dropped_meanwhile_is_made_again(sink: SqlSink) -> None:
    sink.write([one()])
    ask(sink, "DROP TABLE sample_p20231114")
    with pytest.raises(RetryableError, match="no partition"):
        sink.write([one(START_MS + 1)])
    sink.write([one(START_MS + 1)])
    assert count(sink) == 1


def test_what_somebody_else_partitioned_is_left_as_it_is(sink: SqlSink) -> None:
    month = f"FOR VALUES FROM ({START_MS - 15 * DAY_MS}) TO ({START_MS + 15 * DAY_MS})"
    ask(sink, f"CREATE TABLE november PARTITION OF sample {month}")
    ask(sink, "CREATE TABLE rest PARTITION OF sample_network DEFAULT")
    sink.write(list(generate_records(10)))
    assert days_of(sink) == ["november"]
    assert days_of(sink, "sample_network") == ["rest"]
    assert count(sink) == 30


def test_partitions_are_found_for_reading_one_day(sink: SqlSink) -> None:
    """PostgreSQL looks at the partition of the day alone, by the index of the container."""
    sink.write([one(START_MS + i * DAY_MS) for i in range(3)])
    sql = f"EXPLAIN SELECT * FROM sample WHERE container = 1 AND ts_ms BETWEEN {START_MS} AND {START_MS + 5}"
    plan = "\n".join(line for (line,) in ask(sink, sql))
    assert "sample_p20231114" in plan
    assert "sample_p20231115" not in plan


# Several agents


def agent(postgresql: Postgresql, tmp_path: Path, number: int) -> SqlSink:
    """A sink as that of an agent of its own, on the database of tmp_path."""
    state = tmp_path / f"agent{number}"
    state.mkdir()
    (state / "source").write_text(f"{number:08d}-0000-4000-8000-000000000000\n")
    return SqlSink(SqlConfig(url=postgresql.url(tmp_path), password=PASSWORD, state_dir=state))


def log_of(number: int, ticks: int) -> list[Record]:
    """What an agent's log holds: its own source, and the same numbers of containers as every other's."""
    source = f"{number:08d}-0000-4000-8000-000000000000"
    out: list[Record] = []
    for record in generate_records(ticks, containers=4, step_ms=DAY_MS // 4):
        if isinstance(record, Batch):
            containers = {n: owned(c, source, number) for n, c in record.containers.items()}
            out.append(msgspec.structs.replace(record, containers=containers))
        elif isinstance(record, Event | Gap):
            out.append(msgspec.structs.replace(record, source=source))
        elif isinstance(record, End):
            out.append(record)
        else:
            out.append(owned(record, source, number))
    return out


def owned(record: Any, source: str, number: int) -> Any:
    if not hasattr(record, "instance"):
        return record
    return msgspec.structs.replace(record, source=source, instance=f"{number:08x}{record.number:08x}", host=f"host{number}")


def test_agents_that_write_at_once_hinder_nobody(postgresql: Postgresql, tmp_path: Path) -> None:
    """Each day's partitions are wanted by all at the same moment, and so are the rows of `metric`."""
    agents = [agent(postgresql, tmp_path, n) for n in range(4)]
    logs = [log_of(n, 24) for n in range(4)]
    together = threading.Barrier(4)

    def run(sink: SqlSink, log: list[Record]) -> None:
        together.wait(60)
        for record in log:
            sink.write([record])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(run, *pair) for pair in zip(agents, logs, strict=True)]:
            done.result(120)
    assert sorted(everything(agents[0])) == sorted(entry for log in logs for entry in flat(log))
    assert ask(agents[0], "SELECT count(DISTINCT agent) AS agents, count(*) FROM container") == [(4, 16)]
    for sink in agents:
        assert sink.conflict_rows == 0
        sink.close()


def test_number_is_looked_up_among_the_agents_own(postgresql: Postgresql, tmp_path: Path) -> None:
    """After a restart, with an end and an event that bear nothing but a number."""
    for n in range(3):
        sink = agent(postgresql, tmp_path, n)
        sink.write(log_of(n, 2)[:-1])
        sink.close()
    (tmp_path / "agent1x").mkdir()
    (tmp_path / "agent1" / "source").rename(tmp_path / "agent1x" / "source")
    again = SqlSink(SqlConfig(url=postgresql.url(tmp_path), password=PASSWORD, state_dir=tmp_path / "agent1x"))
    end_ms = START_MS + DAY_MS
    again.write([Event(end_ms - 1, "oom", 3, {}, 99, "s"), End(4, end_ms, 100)])
    assert ask(again, "SELECT host, number FROM container WHERE ended_ms IS NOT NULL") == [("host1", 4)]
    assert ask(again, "SELECT host, number FROM event e JOIN container c ON c.id = e.container WHERE row = 99") == [
        ("host1", 3)
    ]
    again.close()


# Migrations beside writers


def test_version_that_the_database_wants_holds_at_the_next_write(sink: SqlSink) -> None:
    sink.write([one()])
    ask(sink, "UPDATE writer SET min_version = 2, max_version = 2")
    with pytest.raises(RetryableError, match="install a newer tidegauge") as caught:
        sink.write([one(START_MS + 1)])
    assert caught.value.is_config_fault
    assert count(sink) == 1


def test_write_and_migration_wait_for_each_other(postgresql: Postgresql, sink: SqlSink) -> None:
    """Neither sees the other's work half done, and neither can wait for the other in a circle."""
    sink.write([one()])
    engine = sink.database.writing_engine()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    with engine.connect() as migration, ThreadPoolExecutor(1) as pool:
        with migration.begin():
            sink.database.lock_schema(migration)
            writing = pool.submit(sink.write, [one(START_MS + 1)])
            while postgresql.server.sql(waits, name_of(sink)) != [(1,)]:
                assert not writing.done()
            migration.exec_driver_sql("ALTER TABLE sample ADD COLUMN later BIGINT")
        writing.result(60)
    engine.dispose()
    assert count(sink) == 2


def test_reader_cannot_write(sink: SqlSink) -> None:
    engine = sink.database.reading_engine()
    with engine.connect() as conn, pytest.raises(sa.exc.DBAPIError, match="read-only transaction"):
        conn.exec_driver_sql("DELETE FROM sample")
    engine.dispose()


def test_question_that_takes_too_long_is_stopped(sink: SqlSink) -> None:
    engine = sink.database.reading_engine()
    with engine.connect() as conn, sink.database.limit_time(conn, 0.0):
        with pytest.raises(sa.exc.DBAPIError) as caught:
            conn.exec_driver_sql("SELECT count(*) FROM generate_series(1, 100000000)")
        assert sink.database.is_interrupted(caught.value)
    engine.dispose()


def test_question_may_hold_percent_signs_and_arguments(sink: SqlSink) -> None:
    engine = sink.database.reading_engine()
    with engine.connect() as conn:
        asked = conn.exec_driver_sql("SELECT 'a%b' LIKE '%' || ?, 7 % 4", ("b",)).one()
        assert tuple(asked) == (True, 3)
    engine.dispose()


def test_sqlite_needs_no_driver_of_postgresql(tmp_path: Path) -> None:
    code = """
import sys
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
sink = SqlSink(SqlConfig(url=sys.argv[1]))
sink.open()
sys.exit("psycopg" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, f"sqlite:///{tmp_path}/a.db"], check=False)
    assert done.returncode == 0


def test_connection_says_whose_it_is(postgresql: Postgresql, sink: SqlSink) -> None:
    sql = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = %s"
    assert postgresql.server.sql(sql, name_of(sink)) == [("tidegauge",)]


def test_options_of_the_url_go_before_ours(postgres: PostgresServer) -> None:
    url = postgres.url() + "?connect_timeout=3&application_name=mine"
    database = open_database(url, password=PASSWORD)
    engine = database.writing_engine()
    with engine.connect() as conn:
        driver = conn.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        assert driver.info.get_parameters() | {"connect_timeout": "3", "application_name": "mine"} == (
            driver.info.get_parameters()
        )
    engine.dispose()
