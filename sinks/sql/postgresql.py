"""PostgreSQL 15 and newer, over psycopg 3: how to connect, and what an error means. Rows go in by `postgresql_writer.py`."""

import contextlib
import math
import re
import time
from collections.abc import Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.adapt import Loader
from psycopg.types.numeric import NumericBinaryDumper
from sqlalchemy.pool import NullPool, QueuePool

from tidegauge.pipeline.errors import ConfigError, PermanentError, RetryableError, SinkError
from tidegauge.pipeline.records import MAX_INT
from tidegauge.sinks.sql.partitions import make_ahead
from tidegauge.sinks.sql.postgresql_connection import BoundConnection
from tidegauge.sinks.sql.postgresql_writer import PostgresqlWriter

LOCK = 0x7469646567617567
"""Advisory lock of whoever changes the schema or makes partitions: "tidegaug"."""

_TIMEOUTS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""So that a host that is gone is noticed within a minute or so. Each may be set in the URL."""
_PERMANENT = ("22", "23")
"""Classes of errors that the values themselves make: out of range, no valid text, a constraint."""
_NO_PARTITION = "23514"
_SETTINGS = ("0A", "25006", "28", "3D", "3F", "42", "XX")
"""Classes that somebody must mend: read-only, no such role, database, table or column, no right, damage."""
_FAULT = re.compile(
    r"password authentication failed|no password supplied|does not exist|no pg_hba\.conf entry|permission denied"
    r"|is not permitted to log in|authentication|certificate|SSL|root\.crt|fe_sendauth|could not translate host name",
    re.IGNORECASE,
)
"""In messages of a failed connection, which have no code."""


class PostgresqlDatabase:
    """A database of a server. The password is not part of `name`, of messages or of the URL."""

    is_embedded = False

    def __init__(self, url: sa.URL, password: str = "", password_file: Path | None = None) -> None:
        if url.password is not None or "password" in url.query:
            raise ConfigError("sinks.sql.url: expected no password in it; there are password and password_file")
        if url.get_driver_name() not in ("psycopg", "psycopg2"):  # the latter is what no driver at all stands for
            raise ConfigError(
                f"sinks.sql.url: expected postgresql+psycopg://, got postgresql+{url.get_driver_name()}://: "
                "there is no other driver here"
            )
        self._url = url.set(drivername="postgresql+psycopg")
        self._password = password
        self._password_file = password_file
        shown = self._url.set(drivername="postgresql", query={k: v for k, v in url.query.items() if k in ("host", "port")})
        self.name = shown.render_as_string()

    def exists(self) -> bool:
        return True

    def writing_engine(self, answer_timeout_s: float | None = None) -> sa.Engine:
        engine = self._engine(NullPool, answer_timeout_s)
        if answer_timeout_s is not None:

            @sa.event.listens_for(engine, "connect")
            def _connect(driver: psycopg.Connection[Any], _: object) -> None:
                """A session that was given up is to end then, and not to wait on for a lock that a migration holds."""
                look = "SELECT set_config('client_connection_check_interval', %s, false)"
                with contextlib.suppress(psycopg.errors.InvalidParameterValue):  # of a server that cannot look
                    driver.execute(look, (str(math.ceil(answer_timeout_s * 1000)),))
                    driver.commit()
                driver.rollback()

        return engine

    def reading_engine(self, answer_timeout_s: float | None = None) -> sa.Engine:
        engine = self._engine(QueuePool, answer_timeout_s, pool_pre_ping=True)

        @sa.event.listens_for(engine, "connect")
        def _connect(driver: Any, _: object) -> None:
            driver.read_only = True
            driver.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        return engine

    def _engine(self, pool: type[sa.Pool], answer_timeout_s: float | None, **options: Any) -> sa.Engine:
        engine = sa.create_engine(self._url, poolclass=pool, use_native_hstore=False, **options)

        @sa.event.listens_for(engine, "do_connect")
        def _do_connect(_: object, __: object, ___: object, arguments: dict[str, Any]) -> BoundConnection:
            for name, value in {**_TIMEOUTS, "application_name": "tidegauge"}.items():
                arguments.setdefault(name, value)
            password = self._password
            if self._password_file is not None:
                password = self._password_file.read_text().strip()
            if password:
                arguments["password"] = password
            made = BoundConnection.connect(**arguments)
            made.answer_timeout_s = answer_timeout_s
            return made

        @sa.event.listens_for(engine, "connect")
        def _connect(driver: Any, _: object) -> None:
            driver.adapters.register_loader("numeric", _NumberLoader)
            driver.adapters.register_dumper(None, _NumberDumper)

        @sa.event.listens_for(engine, "before_cursor_execute", retval=True)
        def _own_sign(_: object, __: object, statement: str, arguments: Any, context: Any, is_many: bool) -> tuple[str, Any]:
            if context is None or context.compiled is None:
                statement = statement.replace("%", "%%").replace("?", "%s")
            return statement, arguments

        return engine

    def writer(self, conn: sa.Connection) -> PostgresqlWriter:
        return PostgresqlWriter(conn, LOCK)

    def lock_schema(self, conn: sa.Connection) -> None:
        """Every write reads the table `writer` first, and so waits for the lock on it, and holds one against it."""
        conn.exec_driver_sql("SELECT pg_advisory_xact_lock(?)", (LOCK,))
        if conn.exec_driver_sql("SELECT to_regclass('writer') IS NOT NULL").scalar():
            conn.exec_driver_sql("LOCK TABLE writer IN ACCESS EXCLUSIVE MODE")

    def make_ahead(self, conn: sa.Connection, now_ms: int) -> None:
        make_ahead(conn, LOCK, now_ms)

    def used_bytes(self, conn: sa.Connection, tables: Collection[str]) -> int:
        """With indexes, as they lie on the disk."""
        sql = """
        SELECT coalesce(sum(pg_total_relation_size(relid)), 0)
        FROM unnest(CAST(? AS text[])) AS name, LATERAL pg_partition_tree(to_regclass(name))
        WHERE isleaf
        """
        return int(conn.exec_driver_sql(sql, (list(tables),)).scalar_one())

    @contextlib.contextmanager
    def limit_time(self, conn: sa.Connection, end_s: float) -> Iterator[None]:
        """Each statement inside has the time that is left at the beginning."""
        left_ms = max(1, math.ceil((end_s - time.monotonic()) * 1000))
        conn.exec_driver_sql("SELECT set_config('statement_timeout', ?, true)", (str(left_ms),))
        yield

    def is_interrupted(self, exc: Exception) -> bool:
        return _state(_original(exc)) == psycopg.errors.QueryCanceled.sqlstate

    def set_aside(self) -> None:
        """Never: the files are the server's."""

    def error(self, exc: Exception) -> SinkError | None:
        orig = _original(exc)
        if isinstance(orig, OSError):
            return RetryableError(f"{self.name}: cannot read password_file: {orig}", is_config_fault=True)
        # What the driver cannot put into a column's type.
        if isinstance(orig, OverflowError | TypeError | UnicodeEncodeError):
            return PermanentError(f"write to {self.name}: {orig}")
        if not isinstance(orig, psycopg.Error):
            return None
        state, text = _state(orig), _text(orig)
        if state is None:
            if isinstance(orig, psycopg.DataError | psycopg.ProgrammingError):
                return PermanentError(f"write to {self.name}: {text}")
            return RetryableError(f"{self.name}: {text}", is_config_fault=_FAULT.search(text) is not None)
        if state.startswith(_PERMANENT) and state != _NO_PARTITION:
            return PermanentError(f"write to {self.name}: {text}")
        return RetryableError(f"write to {self.name}: {text} ({state})", is_config_fault=state.startswith(_SETTINGS))


class _NumberLoader(Loader):
    """NUMERIC as it went in: an int if it is whole and of 64 bits, else a float."""

    def load(self, data: Any) -> int | float:
        text = bytes(data)
        if text.lstrip(b"-").isdigit() and abs(number := int(text)) <= MAX_INT + 1:
            return number
        return float(text)


class _NumberDumper(NumericBinaryDumper):
    """An int or a float into NUMERIC, without loss."""

    def dump(self, obj: Any) -> Any:
        return super().dump(Decimal(repr(obj)) if isinstance(obj, float) else obj)


def _original(exc: Exception) -> Exception:
    return exc.orig if isinstance(exc, sa.exc.DBAPIError) and isinstance(exc.orig, Exception) else exc


def _state(exc: Exception) -> str | None:
    return getattr(exc, "sqlstate", None)


def _text(exc: psycopg.Error) -> str:
    """What the server said, in one line, without the values of the row that its context quotes."""
    said = exc.diag.message_primary or str(exc)
    return " ".join(said.split())
