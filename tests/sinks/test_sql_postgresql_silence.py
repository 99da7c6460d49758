"""What a PostgreSQL server leaves unsaid: cursors whose connection is lost, and a server that is there and does not answer."""

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from tests.pipeline.sink_bench import Bench
from tests.servers import PostgresServer, need_postgres
from tests.sinks.databases import ask, everything
from tests.support import eventually

from tidegauge.pipeline.clock import RunnerClock
from tidegauge.pipeline.errors import RetryableError
from tidegauge.pipeline.history import StoreError
from tidegauge.pipeline.records import Record
from tidegauge.pipeline.testing import START_MS, flat, generate_records
from tidegauge.sinks.sql import migrate
from tidegauge.sinks.sql.database import open_database
from tidegauge.sinks.sql.history import SqlHistory
from tidegauge.sinks.sql.postgresql_connection import BoundConnection
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

pytestmark = pytest.mark.integration

PASSWORD = PostgresServer.password


@pytest.fixture
def asking(postgres: PostgresServer) -> Iterator[sa.Connection]:
    engine = open_database(postgres.url(), password=PASSWORD).reading_engine()
    conn = engine.connect()
    yield conn
    conn.invalidate()
    conn.close()
    engine.dispose()


def stream(conn: sa.Connection) -> sa.CursorResult[tuple[int]]:
    asked = sa.text("SELECT n FROM generate_series(1, 100000) n")
    return conn.execution_options(stream_results=True).execute(asked)


# Cursors


def lost_before_it_is_asked(conn: sa.Connection, end: Callable[[], None]) -> None:
    conn.exec_driver_sql("SELECT 1")
    end()
    stream(conn)


def lost_while_it_is_read(conn: sa.Connection, end: Callable[[], None]) -> None:
    with stream(conn) as rows:
        rows.fetchmany(10)
        end()
        rows.fetchmany(10)


def lost_before_it_is_closed(conn: sa.Connection, end: Callable[[], None]) -> None:
    with stream(conn) as rows:
        rows.fetchmany(10)
        end()


def gone_before_it_is_closed(conn: sa.Connection, end: Callable[[], None]) -> None:
    """An error of the server's, as where the time of a question is over at its end."""
    with stream(conn) as rows:
        rows.fetchmany(10)
        with contextlib.closing(conn.connection.cursor()) as other:
            other.execute("CLOSE ALL")


@pytest.mark.parametrize(
    "question", [lost_before_it_is_asked, lost_while_it_is_read, lost_before_it_is_closed, gone_before_it_is_closed]
)
def test_no_cursor_is_left_open_whatever_becomes_of_its_connection(
    postgres: PostgresServer, asking: sa.Connection, question: Callable[[sa.Connection, Callable[[], None]], None]
) -> None:
    driver = asking.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)

    def end() -> None:
        postgres.sql("SELECT pg_terminate_backend(%s, 10000)", driver.info.backend_pid)

    if question in (lost_before_it_is_asked, lost_while_it_is_read):
        with pytest.raises(sa.exc.OperationalError, match="terminat"):
            question(asking, end)
    else:
        question(asking, end)
    left = [c for c in gc.get_objects() if isinstance(c, psycopg.ServerCursor) and c.connection is driver and not c.closed]
    assert left == []
    with asking.engine.connect() as again, stream(again) as rows:
        assert [row.n for row in rows.fetchmany(2)] == [1, 2]


# A server that stands still

NUMBERS = itertools.count()
SILENT = r"has not answered for 0\.5 s|connection timeout expired"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """For tests that stop it for a while."""
    need_postgres()
    with PostgresServer() as server:
        server.role("agent")
        yield server


def sink_of(server: PostgresServer, database: str, **options: Any) -> SqlSink:
    url = f"{server.url(database, 'agent')}?connect_timeout=5"
    return SqlSink(SqlConfig(url=url, password=PASSWORD, **options))


@pytest.fixture
def database(server: PostgresServer) -> str:
    name = f"a{next(NUMBERS)}"
    migrate.upgrade(open_database(server.database(name, "agent"), password=PASSWORD))
    return name


@pytest.fixture
def sink(server: PostgresServer, database: str) -> Iterator[SqlSink]:
    sink = sink_of(server, database, answer_timeout_s=77)
    sink.open()
    yield sink
    sink.close()


def impatient(conn: sa.Connection) -> None:
    """From here on it waits for half a second: before, and over other connections, a busy machine may take its time."""
    driver = conn.connection.driver_connection
    assert isinstance(driver, BoundConnection)
    assert driver.answer_timeout_s == 77
    driver.answer_timeout_s = 0.5


@contextlib.contextmanager
def standing_still(server: PostgresServer, sink: SqlSink) -> Iterator[None]:
    assert sink._conn is not None
    impatient(sink._conn)
    with server.stopped():
        yield


def silent(call: Callable[[], Any]) -> None:
    with pytest.raises(RetryableError, match=SILENT) as caught:
        call()
    assert not caught.value.is_config_fault, caught.value


@pytest.mark.parametrize("moment", ["before the transaction", "before its end"])
def test_server_that_stands_still_is_given_up_and_nothing_is_lost_or_doubled(
    server: PostgresServer, sink: SqlSink, moment: str
) -> None:
    """At the end of a transaction it has been told to commit, and does so when it goes on: a repeat finds its rows there."""
    records = list(generate_records(30))
    sink.write(records[:12])
    assert sink._store is not None
    with contextlib.ExitStack() as stack:
        if moment == "before the transaction":
            stack.enter_context(standing_still(server, sink))
        else:
            whole = sink._store.write

            def stopped(some: list[Record]) -> int:
                conflicts = whole(some)
                stack.enter_context(standing_still(server, sink))
                return conflicts

            sink._store.write = stopped  # type: ignore[method-assign, assignment]
        for _ in range(2):
            silent(lambda: sink.write(records[8:20]))
    sink.write(records[8:])
    assert sorted(everything(sink)) == sorted(flat(records))
    assert sink.conflict_rows == 0


def test_maintenance_of_a_server_that_stands_still_is_given_up(server: PostgresServer, sink: SqlSink) -> None:
    records = list(generate_records(20))
    sink.write(records[:12])
    with standing_still(server, sink):
        silent(lambda: sink.maintain(START_MS, lambda: False))
    sink.maintain(START_MS, lambda: False)
    sink.write(records[12:])
    sink.maintain(START_MS + 3_600_000, lambda: False)
    assert sorted(everything(sink)) == sorted(flat(records))


def test_question_to_a_server_that_stands_still_is_given_up(server: PostgresServer, sink: SqlSink) -> None:
    history = SqlHistory(sink.database, limit_s=38.5)
    assert history.containers(0, START_MS) == []
    with history._engine.connect() as conn:
        impatient(conn)
    with server.stopped(), pytest.raises(StoreError, match=SILENT):
        history.containers(0, START_MS)
    assert history.containers(0, START_MS) == []
    history.close()


def test_runner_tries_again_and_stops_beside_a_server_that_stands_still(
    server: PostgresServer, sink: SqlSink, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, sink, clock=RunnerClock(), retry_max_s=1.0, lag_age_s=1e10)  # type: ignore[arg-type]
    records = list(generate_records(30))
    bench.fill(records[:12])
    bench.run()
    with standing_still(server, sink):
        bench.fill(records[12:])
        bench.runner.start()
        eventually(lambda: bench.runner.counters()["retries"] >= 2, 60)
        assert "connection timeout expired" in str(bench.runner.last_error())
        bench.runner.stop(60)
        assert not bench.runner.is_alive()
    bench.start()
    bench.run()
    account = bench.runner.account()
    assert (account.pending, account.dropped, account.is_exact) == (0, {}, True)
    assert sorted(everything(sink)) == sorted(flat(records))


def test_sessions_that_were_given_up_do_not_wait_on_for_a_migration(
    server: PostgresServer, database: str, sink: SqlSink
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    records = list(generate_records(5))
    impatient_sink = sink_of(server, database, answer_timeout_s=0.5)
    engine = sink.database.writing_engine()
    with engine.begin() as migration:
        sink.database.lock_schema(migration)
        for _ in range(3):
            silent(lambda: impatient_sink.write(records))
        eventually(lambda: server.sql(waiting, database) == [(0,)], 60)
    engine.dispose()
    impatient_sink.close()
    sink.write(records)
    assert ask(sink, "SELECT count(*) FROM sample") == [(len(flat(records)),)]
