"""Questions in SQL to a real PostgreSQL: which roles are refused, and what a question of the right one cannot do."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import PostgresServer, need_postgres

from tidegauge.pipeline.sql_query import QueryError, QueryTarget, Question, SqlAnswer, Why, ask
from tidegauge.pipeline.testing import START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql import migrate
from tidegauge.sinks.sql.database import open_database
from tidegauge.sinks.sql.query_postgresql import VIEWS, prepared
from tidegauge.sinks.sql.query_time import Clock
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

pytestmark = pytest.mark.integration
SCHEMA = make_schema(("cpu_usage_ns", "memory_working_set_bytes"), ())
FOR_EVER = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) "
ROLE = "asker"


@dataclasses.dataclass(frozen=True)
class Rig:
    server: PostgresServer
    password_file: Path

    def target(self, role: str = ROLE) -> QueryTarget:
        parameters = {"host": "127.0.0.1", "port": str(self.server.port), "user": role, "dbname": "history"}
        settings = {"dialect": "postgresql", "parameters": parameters, "password_file": str(self.password_file)}
        return QueryTarget("tidegauge.sinks.sql.query_worker", settings)

    def put(self, sql: str, role: str = ROLE, **bounds: Any) -> SqlAnswer:
        return ask(self.target(role), Question(sql, **bounds))

    def refusal(self, sql: str, role: str = ROLE, **bounds: Any) -> QueryError:
        with pytest.raises(QueryError) as caught:
            self.put(sql, role, **bounds)
        assert self.server.password not in str(caught.value)
        return caught.value

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.sql(statement, database="history")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    need_postgres()
    with PostgresServer() as server:
        url = server.database("history", server.role("agent"))
        migrate.upgrade(open_database(url, busy_timeout_s=5, password=server.password))
        sink = SqlSink(SqlConfig(url=url, password=server.password))
        containers = [make_container(n, f"/c/{n}", name=f"web-{n}") for n in range(1, 11)]
        samples = [
            make_sample(SCHEMA, c.number, START_MS + s * 1000 + c.number, cpu_usage_ns=s * 10**9, memory_working_set_bytes=s)
            for s in range(60)
            for c in containers
        ]
        sink.write([make_batch(samples, containers, (SCHEMA,))])
        sink.close()
        folder = tmp_path_factory.mktemp("secret")
        (folder / "password").write_text(server.password + "\n")
        rig = Rig(server, folder / "password")
        server.role(ROLE)
        rig.sql(f"GRANT SELECT ON {', '.join(VIEWS)} TO {ROLE}")
        yield rig


def test_views_are_answered_as_by_sqlite(rig: Rig) -> None:
    assert rig.put("SELECT count(*), sum(cpu_cores) / count(cpu_cores) AS mean FROM cpu").rows == [[600, 1.0]]
    sql = "SELECT time, ts_ms, container, is_innermost, cpu_seconds FROM cpu ORDER BY ts_ms, id LIMIT 1 OFFSET 10;"
    assert rig.put(sql).rows == [["2023-11-14 22:13:21.001", START_MS + 1001, "web-1", 1, 1.0]]
    assert rig.put("SELECT sum(memory_working_set_bytes) AS bytes, CAST(0.5 AS numeric) FROM memory").rows == [[17700, 0.5]]
    assert rig.put("SELECT count(*) FROM cpu WHERE ts_ms >= ms('2023-11-14', '+80000 seconds', '+30 seconds')").rows == [[300]]
    for view in VIEWS:
        assert rig.put(f"SELECT * FROM {view}", limit=1).columns[:1]


def test_rows_are_bounded_and_fetched_as_they_are_wanted(rig: Rig) -> None:
    answer = rig.put("SELECT a.id FROM cpu a, cpu b, cpu c, cpu d, cpu e", limit=2500)
    assert len(answer.rows) == 2500
    assert answer.is_cut


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DELETE FROM sample", "syntax error"),
        ("INSERT INTO writer VALUES (9, 9)", "syntax error"),
        ("WITH x AS (DELETE FROM sample RETURNING 1) SELECT * FROM x", "data-modifying|permission"),
        ("SELECT 1; DELETE FROM sample", "multiple commands"),
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("SELECT 1; COMMIT; DELETE FROM sample; --", "multiple commands"),
        ("SELECT 1 INTO mine", "INTO"),
        ("CREATE TABLE mine (x int)", "syntax error"),
        ("COPY (SELECT 1) TO PROGRAM 'touch /tmp/x'", "syntax error"),
        ("COPY cpu TO STDOUT", "syntax error"),
        ("SET ROLE postgres", "syntax error"),
        ("RESET ROLE", "syntax error"),
        ("DO 'BEGIN PERFORM 1; END'", "syntax error"),
        ("LISTEN a", "syntax error"),
        ("EXPLAIN ANALYZE SELECT 1", "syntax error"),
        ("SELECT pg_read_file('/etc/passwd')", "not allowed"),
        ("SELECT pg_catalog.pg_read_file('/etc/passwd')", "not allowed"),
        ("SELECT \"pg_read_file\"('/etc/passwd')", "not allowed"),
        ("SELECT U&\"pg\\005fread_file\"('/etc/passwd')", "not allowed"),
        ("SELECT pg_ls_dir('/')", "not allowed"),
        ("SELECT pg_sleep(100)", "not allowed"),
        ("SELECT pg_advisory_lock(1)", "not allowed"),
        ("SELECT pg_terminate_backend(1)", "not allowed"),
        ("SELECT pg_notify('a', 'b')", "not allowed"),
        ("SELECT pg_logical_emit_message(false, 'a', 'b')", "not allowed"),
        ("SELECT lo_import('/etc/passwd')", "not allowed"),
        ("SELECT lo_creat(-1)", "not allowed"),
        ("SELECT lo_from_bytea(0, 'x')", "not allowed"),
        ("SELECT dblink('host=127.0.0.1', 'DELETE FROM sample')", "not allowed"),
        ("SELECT set_config('role', 'postgres', false)", "not allowed"),
        ("SELECT query_to_xml('SELECT 1', true, true, '')", "not allowed"),
        ("SELECT nextval('a')", "not allowed"),
        # what is run from a text: its names would not be seen, and limits would be lifted for what comes after
        ("SELECT * FROM ts_stat('SELECT to_tsvector(set_config(''statement_timeout'', ''0'', false))')", "not allowed"),
        ("SELECT ts_rewrite('a', 'SELECT ''a''::tsquery, pg_sleep(9)::text::tsquery')", "not allowed"),
        ("SELECT * FROM crosstab('SELECT 1, 2, 3')", "not allowed"),
        # where a text ends, the server must see as we do
        ("SELECT $\N{SNOWMAN}$ ' $\N{SNOWMAN}$ || pg_sleep(9) || $\N{SNOWMAN}$ ' $\N{SNOWMAN}$", "not allowed"),
        ("SELECT 1E'\\' || pg_sleep(9) --'", "syntax error|trailing junk|not allowed"),
        ("SELECT 'infinity'::timestamptz", "CAST it to text"),
        ("SELECT rolpassword FROM pg_authid", "not allowed"),
        ("SELECT * FROM sample", "permission denied"),
        ("SELECT * FROM container_metadata", "permission denied"),
        ("SELECT * FROM cpu FOR UPDATE", "permission denied|FOR UPDATE"),
        ("SELECT nothing FROM cpu", "does not exist"),
        ("SELECT $1", "parameter"),
        ("SELECT ms('soon')", "expected a time"),
        ("SELECT ms(1)", "does not exist"),
        ("SELECT /* without end", "end of a comment"),
        ("", "syntax error"),
        ("-- nothing", "syntax error"),
        ("SELECT '\ud800'", "UTF-8"),
        ("SELECT 'a\x00b'", "NUL"),
        ("SELECT " + "(" * 20_000 + "1" + ")" * 20_000, "stack depth|too complex|memory"),
    ],
)
def test_nothing_but_reading_the_views_is_possible(rig: Rig, sql: str, words: str) -> None:
    before = rig.sql("SELECT count(*), (SELECT count(*) FROM pg_largeobject_metadata) FROM sample")
    error = rig.refusal(sql)
    assert error.why is Why.BAD_SQL, error
    assert re.search(words, str(error)), error
    assert rig.sql("SELECT count(*), (SELECT count(*) FROM pg_largeobject_metadata) FROM sample") == before


@pytest.mark.parametrize(
    "sql",
    [FOR_EVER + "SELECT count(*) FROM r", "SELECT count(*) FROM cpu a, cpu b, cpu c, cpu d", FOR_EVER + "SELECT max(x) FROM r"],
)
def test_a_question_ends_when_its_time_is_over(rig: Rig, sql: str) -> None:
    assert rig.refusal(sql, timeout_s=1.5).why is Why.TOO_LONG
    running = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}' AND state = 'active'"
    for _ in range(600):
        if rig.sql(running) == [(0,)]:
            break
        rig.sql("SELECT pg_sleep(0.05)")
    assert rig.sql(running) == [(0,)]


def test_a_large_answer_costs_the_question_alone(rig: Rig) -> None:
    error = rig.refusal("SELECT repeat('x', 50000000) FROM cpu LIMIT 20", timeout_s=60.0, memory_bytes=256 << 20)
    assert error.why is Why.TOO_LARGE, error
    assert rig.refusal("SELECT string_agg(repeat('x', 1000000), '') FROM generate_series(1, 2000)").why is Why.TOO_LARGE
    answer = rig.put("SELECT repeat('x', 10000) FROM cpu", answer_bytes=100_000)
    assert answer.is_cut
    assert len(answer.rows) == 9


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ("ALTER ROLE {role} SUPERUSER", "is, or is a member of, {role}"),
        ("ALTER ROLE {role} CREATEROLE", "is, or is a member of, {role}"),
        ("ALTER ROLE {role} CREATEDB", "is, or is a member of, {role}"),
        ("ALTER ROLE {role} REPLICATION", "is, or is a member of, {role}"),
        ("ALTER ROLE {role} BYPASSRLS", "is, or is a member of, {role}"),
        ("GRANT postgres TO {role}", "is, or is a member of, postgres"),
        ("GRANT agent TO {role}", "owner: agent"),
        ("GRANT pg_read_server_files TO {role}", "pg_read_server_files"),
        ("GRANT pg_write_server_files TO {role}", "pg_write_server_files"),
        ("GRANT pg_execute_server_program TO {role}", "pg_execute_server_program"),
        ("GRANT pg_monitor TO {role}", "pg_monitor"),
        ("GRANT pg_signal_backend TO {role}", "pg_signal_backend"),
        ("GRANT pg_read_all_data TO {role}", "pg_read_all_data"),
        ("GRANT INSERT ON sample TO {role}", "may change public.sample"),
        ("GRANT UPDATE (path) ON container TO {role}", "may change public.container"),
        ("GRANT SELECT ON container_metadata TO {role}", "may read public.container_metadata"),
        ("GRANT SELECT (ts_ms) ON sample TO {role}", "may read public.sample"),
        ("GRANT CREATE ON SCHEMA public TO {role}", "may create in the schema public"),
        ("GRANT CREATE ON DATABASE history TO {role}", "may create schemas"),
        ("GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {role}", "may run pg_read_file"),
        (
            "CREATE FUNCTION hole() RETURNS int LANGUAGE sql VOLATILE SECURITY DEFINER AS 'SELECT 1';"
            "GRANT EXECUTE ON FUNCTION hole() TO {role}; REVOKE EXECUTE ON FUNCTION hole() FROM public",
            "may run public.hole",
        ),
        ("CREATE SCHEMA AUTHORIZATION {role}", "owner: {role}"),
        ("CREATE SEQUENCE counter; GRANT USAGE ON SEQUENCE counter TO {role}", "may use the sequence counter"),
    ],
)
def test_a_role_that_may_do_more_is_refused(rig: Rig, setup: str, words: str) -> None:
    role = rig.server.role("more")
    try:
        rig.sql(f"GRANT SELECT ON {', '.join(VIEWS)} TO {role}")
        assert rig.put("SELECT count(*) FROM cpu", role).rows == [[600]]
        rig.sql(setup.replace("{role}", role))
        error = rig.refusal("SELECT count(*) FROM cpu", role)
        assert error.why is Why.STORE
        assert words.replace("{role}", role) in str(error), error
    finally:
        rig.sql("DROP FUNCTION IF EXISTS hole; DROP SEQUENCE IF EXISTS counter")
        rig.sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_what_a_role_could_become_counts_however_far_it_is(rig: Rig) -> None:
    """Without inheriting it either: it could SET ROLE."""
    roles = [rig.server.role(name, "NOINHERIT") for name in ("near", "middle", "far")]
    try:
        rig.sql(f"GRANT SELECT ON {', '.join(VIEWS)} TO near")
        rig.sql("GRANT pg_read_server_files TO far; GRANT far TO middle; GRANT middle TO near")
        error = rig.refusal("SELECT count(*) FROM cpu", "near")
        assert error.why is Why.STORE
        assert "pg_read_server_files" in str(error)
    finally:
        rig.sql("; ".join(f"DROP OWNED BY {role}; DROP ROLE {role}" for role in roles))


def test_a_role_made_as_the_documentation_says_fills_no_disk_and_no_log(rig: Rig) -> None:
    role = "tidegauge_query"
    page = (Path(__file__).parents[2] / "docs" / "query.md").read_text()
    (block,) = (b for b in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if f"CREATE ROLE {role}" in b)
    try:
        for statement in block.replace("...", rig.server.password).strip().rstrip(";").split(";"):
            rig.sql(statement)
        assert rig.put("SELECT count(*) FROM cpu", role).rows == [[600]]
        rig.sql(f"ALTER ROLE {role} SET temp_file_limit = '1MB'")  # a gigabyte would be real
        rig.sql("ALTER DATABASE history SET log_statement = 'all'")
        sql = "SELECT g AS private_word FROM generate_series(1, 1000000) g ORDER BY md5(CAST(g AS text))"
        assert rig.refusal(sql, role).why is Why.TOO_LARGE
        assert rig.refusal("SELECT private_word", role).why is Why.BAD_SQL
        assert "private_word" not in rig.server.log()
    finally:
        rig.sql("ALTER DATABASE history RESET log_statement")
        rig.sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_owner_and_superuser_are_refused(rig: Rig) -> None:
    for role in ("agent", "postgres"):
        assert rig.refusal("SELECT 1", role).why is Why.STORE


def test_a_server_that_cannot_be_asked_is_the_stores_fault(rig: Rig, tmp_path: Path) -> None:
    assert rig.refusal("SELECT 1", "nobody-of-that-name").why is Why.STORE
    lost = dataclasses.replace(rig, password_file=tmp_path / "none")
    assert "password_file" in str(lost.refusal("SELECT 1"))


def test_only_names_count_and_times_are_worked_out() -> None:
    clock = Clock(1_700_000_000)
    for sql in (
        "SELECT 'pg_sleep(1)', E'it\\'s pg_sleep(1)', $$pg_sleep(1)$$, $a$ pg_x $$ pg_y $a$, 'a''pg_z'",
        'SELECT container AS "my pg_x", page_faults FROM memory',
    ):
        assert prepared(sql, clock) == sql
    assert prepared("SELECT 1 -- pg_x\n/* pg_y /* nested */ pg_z */, 2", clock).split() == ["SELECT", "1", ",", "2"]
    assert prepared("ts_ms > MS ( 'now' , '-1 hour' ) and ms (x) > 1", clock) == "ts_ms > 1699996400000 and ms (x) > 1"
    for sql in (
        "SELECT E'\\\\' || pg_x",
        "SELECT 'a' || pg_x || 'b'",
        "SELECT $$a$$ || PG_X",
        "SELECT 'a\\' || pg_x --'",
        "SELECT $\u2003$ ' $\u2003$ || pg_x --'",
    ):
        with pytest.raises(QueryError, match="not allowed"):
            prepared(sql, clock)
