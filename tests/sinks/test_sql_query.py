"""Questions in SQL to a SQLite file: what is answered, and what no question can do. Each runs in its own process."""

import asyncio
import json
import os
import pwd
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support import need

from tidegauge.pipeline.records import Event
from tidegauge.pipeline.sql_query import QueryError, QueryTarget, Question, SqlAnswer, Why, ask, ask_async
from tidegauge.pipeline.testing import SOURCE, START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql.query_time import Clock
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

MODULE = "tidegauge.sinks.sql.query_worker"
SCHEMA = make_schema(("cpu_usage_ns", "memory_working_set_bytes"), ())
FOR_EVER = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) "


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> SqlSink:
    """Open, as in an agent that runs: the file is in WAL mode with its two companions beside it."""
    sink = SqlSink(SqlConfig(url=f"sqlite:///{tmp_path_factory.mktemp('query') / 'a.db'}"))
    containers = [make_container(n, f"/c/{n}", name=f"web-{n}") for n in range(1, 41)]
    samples = [
        make_sample(SCHEMA, c.number, START_MS + s * 1000 + c.number, cpu_usage_ns=s * 10**9, memory_working_set_bytes=c.number)
        for s in range(60)
        for c in containers
    ]
    sink.write([make_batch(samples, containers, (SCHEMA,)), Event(START_MS, "oom", 1, {"pid": 7}, 1, SOURCE)])
    return sink


def target(path: Path) -> QueryTarget:
    return QueryTarget(MODULE, {"dialect": "sqlite", "path": str(path)})


def put(sink: SqlSink, sql: str, **bounds: Any) -> SqlAnswer:
    return ask(target(sink.path), Question(sql, **bounds))


def refusal(sink: SqlSink, sql: str, **bounds: Any) -> QueryError:
    with pytest.raises(QueryError) as caught:
        put(sink, sql, **bounds)
    return caught.value


def state(sink: SqlSink) -> list[str]:
    """Everything that the file holds."""
    conn = sqlite3.connect(sink.path)
    try:
        return list(conn.iterdump())
    finally:
        conn.close()


def test_columns_and_rows_are_answered_with_their_types(sink: SqlSink) -> None:
    answer = put(sink, "SELECT 1 AS one, 1.5, 'text', NULL, x'00ff', 9223372036854775807, 9e999 AS endless;  -- a comment")
    assert answer.columns[:1] == ["one"]
    assert answer.columns[-1:] == ["endless"]
    assert answer.rows == [[1, 1.5, "text", None, b"\x00\xff", 9223372036854775807, None]]
    assert not answer.is_cut


def test_views_tables_and_json_are_there_to_be_asked(sink: SqlSink) -> None:
    assert put(sink, "SELECT count(*), round(avg(cpu_cores), 6) FROM cpu").rows == [[2400, 1.0]]
    assert put(sink, "SELECT count(*) FROM sample JOIN container ON id = container WHERE path = '/c/7'").rows == [[60]]
    assert put(sink, "WITH a AS (SELECT labels FROM containers) SELECT DISTINCT labels ->> 'tier' FROM a").rows == [["front"]]
    assert put(sink, "SELECT key, value FROM json_each('{\"a\": 1}')").rows == [["a", 1]]
    for view in ("cpu", "memory", "network", "disk", "filesystem", "events", "containers"):
        assert put(sink, f"SELECT * FROM {view}", limit=1).columns
    sql = "SELECT container, rank() OVER (ORDER BY max(memory_working_set_bytes) DESC) FROM memory GROUP BY 1 LIMIT 1"
    assert put(sink, sql).rows == [["web-40", 1]]


def test_rows_and_bytes_of_an_answer_are_bounded(sink: SqlSink) -> None:
    answer = put(sink, FOR_EVER + "SELECT x FROM r", limit=1000)
    assert answer.rows == [[n] for n in range(1, 1001)]
    assert answer.is_cut
    assert not put(sink, "SELECT 1 UNION SELECT 2", limit=2).is_cut
    answer = put(sink, FOR_EVER + "SELECT printf('%01000d', x) FROM r", answer_bytes=100_000)
    assert 90 < len(answer.rows) < 100
    assert answer.is_cut


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM sample",
        "INSERT INTO writer VALUES (9, 9)",
        "UPDATE container SET path = 'x' RETURNING path",
        "REPLACE INTO metric VALUES ('a', 'b', 'c', 'd', 'e')",
        "WITH x AS (SELECT 1) DELETE FROM sample",
        "DROP TABLE sample",
        "DROP VIEW cpu",
        "CREATE TABLE mine (x)",
        "CREATE TEMP TABLE mine AS SELECT 1",
        "CREATE TEMP VIEW cpu AS SELECT 1",
        "CREATE VIRTUAL TABLE mine USING fts5(x)",
        "ALTER TABLE sample ADD COLUMN x",
        "REINDEX",
        "ANALYZE",
        "VACUUM",
        "VACUUM INTO '{folder}/stolen.db'",
        "ATTACH '{folder}/other.db' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "BEGIN EXCLUSIVE",
        "SAVEPOINT a",
        "COMMIT",
        "PRAGMA query_only = 0",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA table_list",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM sqlite_master",
        "SELECT count(*) FROM sqlite_master",
        "SELECT count(*) FROM sample, Sqlite_Schema",
        "SELECT * FROM sqlite_temp_schema",
        "SELECT * FROM sqlite_dbpage",
        "SELECT * FROM dbstat",
        "SELECT load_extension('{folder}/evil.so')",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('{folder}/stolen', 'x')",
        "SELECT edit('x')",
        "SELECT fts3_tokenizer('x')",
        "SELECT sqlite_version()",
        "SELECT sqlite_compileoption_get(0)",
        "SELECT randomblob(1000000000)",
        "SELECT zeroblob(1000000000)",
        "SELECT last_insert_rowid()",
        "SELECT (SELECT load_extension('x')) FROM cpu WHERE 0",
        "SELECT 1 WHERE EXISTS (SELECT name FROM sqlite_master)",
        "EXPLAIN DELETE FROM sample",
        "SELECT 1; DELETE FROM sample",
        "SELECT 1; SELECT 2",
        "/* a */ SELECT 1 /* b */; -- c\n DROP TABLE sample",
        "",
        ";",
        "-- nothing",
        "SELECT",
        "SELEKT 1",
        "SELECT nothing FROM cpu",
        "SELECT * FROM no_such_table",
        "SELECT ?",
        "SELECT :a",
        "SELECT 1 \x00; DELETE FROM sample",
        "SELECT ms('whenever')",
        "SELECT " + "(" * 2000 + "1" + ")" * 2000,
        "SELECT " + "1+" * 2000 + "1",
        "SELECT " + ", ".join(["1"] * 2000),
        " UNION ALL ".join(["SELECT 1"] * 600),
        "SELECT * FROM " + ", ".join(f"sample s{n}" for n in range(70)),
        "SELECT 1 " + " " * 100_000,
        "SELECT 1 WHERE 'a' LIKE '" + "%a" * 2000 + "'",
    ],
)
def test_nothing_but_reading_is_possible(sink: SqlSink, tmp_path: Path, sql: str) -> None:
    before = state(sink)
    error = refusal(sink, sql.replace("{folder}", str(tmp_path)))
    assert error.why is Why.BAD_SQL, error
    assert str(error)
    assert state(sink) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        FOR_EVER + "SELECT count(*) FROM r",
        "SELECT count(*) FROM sample a, sample b, sample c, sample d",
        "SELECT count(*) FROM cpu a JOIN cpu b ON a.cpu_cores < b.cpu_cores JOIN cpu c ON c.cpu_cores < b.cpu_cores",
        # within one function, where SQLite looks at no clock: the kernel's bound of CPU time ends it
        "SELECT instr(printf('%03000000d', 0), printf('%01000000d', 0) || '1')",
    ],
)
def test_a_question_ends_when_its_time_is_over(sink: SqlSink, sql: str) -> None:
    error = refusal(sink, sql, timeout_s=0.5)
    assert error.why is Why.TOO_LONG, error
    assert put(sink, "SELECT 1").rows == [[1]]


@pytest.mark.parametrize(
    "sql",
    [
        FOR_EVER + "SELECT x FROM r ORDER BY x DESC",
        FOR_EVER + "SELECT count(*) FROM (SELECT DISTINCT printf('%01000d', x) FROM r)",
        FOR_EVER + "SELECT count(*) FROM (SELECT x, printf('%0100000d', x) FROM r GROUP BY 2)",
    ],
)
def test_a_question_ends_when_its_memory_is_over(sink: SqlSink, tmp_path: Path, sql: str) -> None:
    error = refusal(sink, sql, timeout_s=60.0, memory_bytes=96 << 20)
    assert error.why is Why.TOO_LARGE, error


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE r(x) AS (SELECT 'aaaaaaaaaaaaaaaa' UNION ALL SELECT x || x FROM r) SELECT max(length(x)) FROM r",
        "SELECT 1 WHERE length(printf('%.*c', 1000000000, 'x')) > 5000000 OR abs(-9223372036854775808)",
        "SELECT length(group_concat(printf('%01000000d', ts_ms))) FROM sample",
        "SELECT length(replace(printf('%01000000d', 0), '0', '0000000000'))",
    ],
)
def test_texts_do_not_grow_without_bound(sink: SqlSink, sql: str) -> None:
    assert refusal(sink, sql, memory_bytes=96 << 20).why in (Why.BAD_SQL, Why.TOO_LARGE)


def test_the_store_is_written_while_it_is_asked(sink: SqlSink) -> None:
    fresh = [make_sample(SCHEMA, 1, START_MS + 10**6, cpu_usage_ns=5)]
    settings = {"dialect": "sqlite", "path": str(sink.path)}
    command = json.dumps(
        {"question": {"sql": FOR_EVER + "SELECT count(*) FROM r, sample", "timeout_s": 300}, "settings": settings}
    )
    with subprocess.Popen([sys.executable, "-P", "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.write(command.encode())
        worker.stdin.close()
        sink.write([make_batch(fresh, (make_container(1, "/c/1", name="web-1"),), (SCHEMA,))])
        sql = "SELECT count(*) FROM sample WHERE ts_ms = ms('2023-11-14 22:30:00')"
        assert put(sink, sql).rows == [[1]]
        assert worker.poll() is None
        worker.kill()


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(QueryError) as caught:
        ask(target(tmp_path / "no.db"), Question("SELECT 1"))
    assert caught.value.why is Why.STORE
    assert str(tmp_path / "no.db") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_at_rest_is_asked_and_left_as_it_was(tmp_path: Path) -> None:
    sink = SqlSink(SqlConfig(url=f"sqlite:///{tmp_path / 'a.db'}"))
    sink.write([make_batch([make_sample(SCHEMA, 1, START_MS, cpu_usage_ns=1)], schemas=(SCHEMA,))])
    sink.close()
    before = (tmp_path / "a.db").read_bytes()
    assert ask(target(tmp_path / "a.db"), Question("SELECT count(*) FROM cpu")).rows == [[1]]
    assert (tmp_path / "a.db").read_bytes() == before


def test_a_damaged_file_is_the_stores_fault(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(QueryError) as caught:
        ask(target(tmp_path / "a.db"), Question("SELECT count(*) FROM cpu"))
    assert caught.value.why is Why.STORE


def test_neither_sql_nor_settings_stand_in_the_command_line_or_in_errors(
    sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], Mapping[str, str]]] = []
    real = subprocess.Popen

    def popen(command: list[str], **kwargs: Any) -> Any:
        seen.append((command, kwargs["env"]))
        return real(command, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setenv("TIDEGAUGE_SINKS__INFLUXDB__TOKEN", "s3cret")
    put(sink, "SELECT 'private'")
    ((command, environment),) = seen
    assert command[1:] == ["-P", "-m", MODULE]
    assert not [name for name in environment if name.startswith("TIDEGAUGE_")]
    assert "s3cret" not in repr(QueryTarget(MODULE, {"url": "postgresql://user:s3cret@host/db"}))


def test_it_runs_with_the_rights_that_it_is_given(sink: SqlSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program of its own, since the interpreter may lie where nobody else can reach it."""
    need(os.geteuid() == 0, "root, whose rights could be dropped")
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        program = Path(folder) / "program"
        program.write_text(f"#!/bin/sh\necho $(id -u) $(id -g) $(id -G) > {folder}/said\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        with pytest.raises(QueryError, match="failed"):
            ask(target(sink.path), Question("SELECT 1"), (nobody.pw_uid, nobody.pw_gid))
        assert (Path(folder) / "said").read_text().split() == [str(n) for n in (nobody.pw_uid, nobody.pw_gid, nobody.pw_gid)]


def test_a_question_that_is_given_up_takes_its_process_along(sink: SqlSink) -> None:
    def workers() -> list[int]:
        return [c.pid for c in psutil.Process().children() if MODULE in " ".join(c.cmdline())]

    async def give_up() -> None:
        question = Question(FOR_EVER + "SELECT count(*) FROM r", timeout_s=300.0)
        task = asyncio.create_task(ask_async(target(sink.path), question))
        while not workers():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert workers() == []


def test_asking_from_a_loop_answers_alike(sink: SqlSink) -> None:
    asyncio.run(asyncio.wait_for(_both_ways(sink), 60))


async def _both_ways(sink: SqlSink) -> None:
    assert (await ask_async(target(sink.path), Question("SELECT 1 AS a"))).rows == [[1]]
    with pytest.raises(QueryError) as caught:
        await ask_async(target(sink.path), Question(FOR_EVER + "SELECT count(*) FROM r", timeout_s=0.5))
    assert caught.value.why is Why.TOO_LONG


def test_clock_names_times_as_people_do() -> None:
    clock = Clock(1_700_000_000.5)  # Tuesday 2023-11-14 22:13:20.5

    def at(*words: str) -> str:
        return time.strftime("%F %T", time.gmtime(clock.ms(*words) / 1000))

    assert clock.ms("now") == 1_700_000_000_500
    assert clock.ms("-1.5 hours") == 1_700_000_000_500 - 5_400_000
    assert at("today") == "2023-11-14 00:00:00"
    assert at("Yesterday", "+90 minutes") == "2023-11-13 01:30:00"
    assert at("last tuesday") == "2023-11-07 00:00:00"
    assert at("last monday") == "2023-11-13 00:00:00"
    assert at("last wednesday", "+1 day") == "2023-11-09 00:00:00"
    assert at("2023-11-14 10:00") == "2023-11-14 10:00:00"
    assert at("2023-11-14T10:00:00+02:00") == "2023-11-14 08:00:00"
    assert at("2023-11-14", "+1 week", "-1 second") == "2023-11-20 23:59:59"
    for wrong in (
        "",
        "soon",
        "last",
        "last day",
        "+1",
        "+1 month",
        "-1 fortnight",
        "+999999999 weeks",
        "99",
        "0001-01-01T00:00:00+14:00",
    ):
        with pytest.raises(ValueError, match="expected a time"):
            clock.ms(wrong)
    with pytest.raises(ValueError, match="expected a time"):
        clock.ms()
