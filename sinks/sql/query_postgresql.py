"""Asks a PostgreSQL database, as a role that may do nothing but SELECT the views, in a transaction that is undone.

The server's rights are the guard: before each question it is asked what the role could do, and a role that could do more is
refused, however it came to it. What every role may do there besides (sleep, take locks, write large objects up to version 15)
is kept out by name, and undone with the transaction.
"""

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq
from psycopg.types.json import set_json_loads

from tidegauge.pipeline.sql_query import QueryError, Why
from tidegauge.sinks.sql.query_time import Clock
from tidegauge.sinks.sql.query_worker import Rows

VIEWS = ("cpu", "memory", "network", "disk", "filesystem", "events", "containers")
_FETCH_ROWS = 1000
_TOO_MUCH = (
    # a member of a role can become that role, so what counts is all of them
    """
    SELECT 'is, or is a member of, ' || rolname FROM pg_roles
    WHERE pg_has_role(session_user, oid, 'MEMBER')
      AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR starts_with(rolname, 'pg_'))
    """,
    """
    SELECT 'owns something, or is a member of an owner: ' || rolname FROM pg_roles
    WHERE pg_has_role(session_user, oid, 'MEMBER') AND EXISTS (
        SELECT 1 FROM pg_shdepend
        WHERE refclassid = CAST('pg_authid' AS regclass) AND refobjid = pg_roles.oid AND deptype = 'o')
    """,
    """
    SELECT 'may create in the schema ' || nspname FROM pg_namespace WHERE has_schema_privilege(session_user, oid, 'CREATE')
    UNION ALL
    SELECT 'may create schemas' WHERE has_database_privilege(session_user, current_database(), 'CREATE')
    """,
    """
    SELECT 'may change ' || nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('pg_catalog', 'information_schema')
      AND (has_table_privilege(session_user, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
        OR has_any_column_privilege(session_user, c.oid, 'INSERT, UPDATE, REFERENCES'))
    UNION ALL
    SELECT 'may use the sequence ' || relname FROM pg_class c
    WHERE relkind = 'S' AND has_sequence_privilege(session_user, c.oid, 'USAGE, UPDATE')
    """,
    """
    SELECT 'may read ' || nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('pg_catalog', 'information_schema')
      AND has_any_column_privilege(session_user, c.oid, 'SELECT')
      AND NOT (relkind = 'v' AND relname = ANY(%s) AND c.oid = to_regclass(quote_ident(relname)))
      AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = CAST('pg_class' AS regclass) AND d.objid = c.oid
                      AND d.deptype = 'e')
    """,
    """
    SELECT 'may run ' || nspname || '.' || proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND (provolatile = 'v' OR prosecdef)
      AND has_schema_privilege(session_user, n.oid, 'USAGE') AND has_function_privilege(session_user, p.oid, 'EXECUTE')
      AND NOT EXISTS (SELECT 1 FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                      WHERE d.classid = CAST('pg_proc' AS regclass) AND d.objid = p.oid AND d.deptype = 'e'
                      AND extname = 'timescaledb')
    UNION ALL
    SELECT 'may run ' || proname FROM pg_proc p
    WHERE pronamespace = CAST('pg_catalog' AS regnamespace) AND has_function_privilege(session_user, p.oid, 'EXECUTE')
      AND (proname ~ '^(pg_read_|pg_ls_|pg_stat_file|pg_file_|pg_promote|pg_reload_conf|pg_rotate|pg_switch_wal|pg_create_)'
           OR proname IN ('lo_import', 'lo_export'))
      AND proacl IS NOT NULL
    """,
)
"""What a role for questions must not be able to do, each a query whose rows say what it can."""
_LETTER = r"A-Za-z_\x80-\U0010ffff"
"""As the server reads: whatever is not ASCII, be it a blank or a sign, may stand in a name and in the tag of a text."""
_TOKEN = re.compile(
    rf"""
    (?P<space> [ \t\n\r\f\v]+ | --[^\n\r]* ) | (?P<comment> /\* )
  | (?P<text> [bxn]? ' (?:[^']|'')* ' ) | (?P<escaped> e ' (?:[^'\\]|\\.|'')* ' )
  | (?P<dollar> \$ (?P<tag> (?:[{_LETTER}][{_LETTER}0-9]*)? ) \$ .*? \$ (?P=tag) \$ )
  | (?P<unicode> u& ['"] )
  | (?P<quoted> " (?:[^"]|"")* " ) | (?P<name> [{_LETTER}][{_LETTER}0-9$]* ) | (?P<other> . )
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")
_KEPT_OUT = re.compile(
    r"pg_.*|lo_.*|loread|lowrite|dblink.*|set_config|current_setting|nextval|setval|currval|lastval|txid_.*|inet_.*"
    r"|(query|table|schema|database|cursor)_to_xml.*|(query|table|schema|database)_to_.*xmlschema"
    r"|ts_stat|ts_rewrite|crosstab.*|connectby|xpath_table",
    re.IGNORECASE,
)
"""Among them all that run a text as SQL: names within it would not be seen."""


def prepared(sql: str, clock: Clock) -> str:
    """The statement with `ms('...')` worked out. QueryError for names that no question about containers needs.

    Only names count: what stands in texts and comments does not.
    """
    out: list[str] = []
    tokens = list(_tokens(sql))
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        at += 1
        if kind in ("name", "quoted"):
            name = text.strip('"')
            if _KEPT_OUT.fullmatch(name):
                raise QueryError(Why.BAD_SQL, f"The name {name} is not allowed.")
            if name.lower() == "ms" and (found := _call(tokens, at)) is not None:
                words, at = found
                try:
                    text = str(clock.ms(*words))
                except ValueError as exc:
                    raise QueryError(Why.BAD_SQL, f"{exc}.") from exc
        elif kind == "unicode":
            raise QueryError(Why.BAD_SQL, "Names and texts with U& are not allowed.")
        out.append(text)
    return "".join(out)


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of everything; comments, which nest, become a space. QueryError for a comment that does not end."""
    at = 0
    while at < len(sql):
        found = _TOKEN.match(sql, at)
        assert found is not None
        at = found.end()
        kind = str(found.lastgroup if found.lastgroup != "tag" else "dollar")
        if kind != "comment":
            yield kind, " " if kind == "space" else found[0]
            continue
        depth = 1
        while depth:
            edge = _COMMENT.search(sql, at)
            if edge is None:
                raise QueryError(Why.BAD_SQL, "Expected the end of a comment.")
            depth += 1 if edge[0] == "/*" else -1
            at = edge.end()
        yield "space", " "


def _call(tokens: list[tuple[str, str]], at: int) -> tuple[list[str], int] | None:
    """Arguments of a call with nothing but texts, and where it ends; None for anything else."""
    seen = "".join("T" if kind == "text" else text for kind, text in tokens[at : at + 40] if kind != "space")
    shape = re.match(r"\(T(,T)*\)", seen)
    if shape is None:
        return None
    words: list[str] = []
    while True:
        kind, text = tokens[at]
        at += 1
        if kind == "text":
            words.append(text[1:-1].replace("''", "'"))
        elif text == ")":
            return words, at


class PostgresqlStore:
    def __init__(self, parameters: Mapping[str, str], password_file: str | None, clock: Clock) -> None:
        self._clock = clock
        self._conn: psycopg.Connection[Any] | None = None
        self._parameters = parameters
        self._password_file = password_file

    def ask(self, sql: str, limit: int, deadline_s: float) -> Rows:
        statement = prepared(sql, self._clock)
        try:
            conn = self._connect(deadline_s)
        except OSError as exc:
            raise QueryError(Why.STORE, f"query_password_file cannot be read: {exc.strerror}.") from exc
        except psycopg.Error as exc:
            raise QueryError(Why.STORE, f"The server cannot be asked: {_said(exc)}") from exc
        try:
            self._check(conn)
        except psycopg.Error as exc:
            raise self._fault(exc) from exc
        try:
            left_ms = max(1, int((deadline_s - time.monotonic()) * 1000))
            conn.execute(f"SET LOCAL statement_timeout = {left_ms}")
            # through the extended protocol, which takes one statement alone; and of statements a cursor takes SELECT alone
            result = conn.pgconn.exec_params(b"DECLARE question NO SCROLL CURSOR FOR\n" + statement.encode(), None)
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result, encoding="utf-8")
            cursor = conn.execute(f"FETCH FORWARD {min(limit, _FETCH_ROWS)} FROM question")
        except psycopg.Error as exc:
            raise self._fault(exc) from exc
        columns = [column.name for column in cursor.description or ()]
        return Rows(columns, self._rows(conn, cursor, limit, deadline_s))

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()

    def _rows(
        self, conn: psycopg.Connection[Any], cursor: psycopg.Cursor[Any], limit: int, deadline_s: float
    ) -> Iterator[tuple[Any, ...]]:
        try:
            while found := cursor.fetchall():
                yield from found
                limit -= len(found)
                if limit <= 0:
                    break
                if time.monotonic() > deadline_s:
                    raise TimeoutError
                cursor = conn.execute(f"FETCH FORWARD {min(limit, _FETCH_ROWS)} FROM question")
        except psycopg.Error as exc:
            raise self._fault(exc) from exc

    def _connect(self, deadline_s: float) -> psycopg.Connection[Any]:
        parameters: dict[str, Any] = {"connect_timeout": 10, "application_name": "tidegauge query", **self._parameters}
        if self._password_file:
            parameters["password"] = Path(self._password_file).read_text().strip()
        self._conn = conn = psycopg.connect(**parameters)
        set_json_loads(_as_text, conn)
        left_ms = max(1, int((deadline_s - time.monotonic()) * 1000))
        for name, value in (
            ("statement_timeout", left_ms),
            ("lock_timeout", left_ms),
            ("idle_in_transaction_session_timeout", left_ms + 5000),
            ("client_connection_check_interval", 1000),
            ("standard_conforming_strings", "on"),
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO"),
            ("max_parallel_workers_per_gather", 0),
            ("default_transaction_read_only", "on"),
        ):
            conn.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, str(value)))
        conn.commit()
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return conn

    def _check(self, conn: psycopg.Connection[Any]) -> None:
        """QueryError if the role may do more than it should, or less than it must."""
        found: list[str] = []
        for query in _TOO_MUCH:
            arguments = (list(VIEWS),) if "%s" in query else None
            found += [text for (text,) in conn.execute(f"{query} ORDER BY 1 LIMIT 3", arguments)]
        if found:
            raise QueryError(
                Why.STORE,
                f"The role of query_url may do more than SELECT the views, and is not used: it {'; it '.join(found)}.",
            )

    def _fault(self, exc: psycopg.Error) -> Exception:
        state = exc.sqlstate or ""
        if not state and isinstance(exc, psycopg.DataError):  # what Python has no value for: infinite times
            return QueryError(Why.BAD_SQL, f"{_said(exc)} CAST it to text.")
        if state in ("57014", "55P03", "25P03"):
            return TimeoutError()
        # 54000: a value or a work area that grew beyond what there is
        if state.startswith("53") or state == "54000" or (not state and "out of memory" in str(exc)):
            return MemoryError()
        if not state or (state.startswith(("08", "57", "58", "XX")) and state != "08P01"):
            return QueryError(Why.STORE, f"The server does not answer: {_said(exc)}")
        return QueryError(Why.BAD_SQL, _said(exc))


def _as_text(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode()


def _said(exc: psycopg.Error) -> str:
    """In one line, without the statement."""
    words = " ".join((exc.diag.message_primary or str(exc)).split())
    hint = " ".join((exc.diag.message_hint or "").split())
    return f"{words}.{' ' + hint if hint else ''}"
