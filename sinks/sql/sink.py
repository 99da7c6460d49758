"""Stores every record in an SQL database: SQLite, embedded, the default store, or PostgreSQL.

One write is one transaction; a key that is there already is left alone, so a repeat changes nothing. A key that comes again
with other values keeps the first ones and counts in `conflict_rows`. SQLite needs no privilege but its own folder; PostgreSQL
a role that owns its tables.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
import sqlalchemy as sa

from tidegauge.pipeline.errors import ConfigError, RetryableError, SinkError, StoreLostError
from tidegauge.pipeline.records import Batch, Container, End, Event, Gap, Record, Schema
from tidegauge.pipeline.sql_query import QueryTarget
from tidegauge.sinks.sql import retention, rollup
from tidegauge.sinks.sql.database import DamagedError, columns, open_database, revision
from tidegauge.sinks.sql.history import SqlHistory
from tidegauge.sinks.sql.query_target import query_target
from tidegauge.sinks.sql.retention import Resolution, Retention
from tidegauge.sinks.sql.rollup import Rollup
from tidegauge.sinks.sql.store import Store
from tidegauge.sinks.sql.tables import REVISION, SAMPLE_TABLES, WRITER_VERSION, metadata
from tidegauge.sinks.sql.tables_rollup import FIVE_MINUTES_MS, HOUR_MS, rolled_tables

if TYPE_CHECKING:
    from tidegauge.pipeline.copying import RecordSource, Taken
    from tidegauge.sinks.sql.sql_tables import SqlTables
    from tidegauge.sinks.sql.tables_source import TableRecords

_SHARES_S = {0: 7 * 86400.0, FIVE_MINUTES_MS: 30 * 86400.0, HOUR_MS: 2 * 365 * 86400.0}
"""Of what a size has room for, where a resolution is kept for ever."""
_HISTORY_LIMIT_S = 10.0
"""How long a question to what is stored may take."""
_EVENTS = 1_000_000
"""Events of a kind that are kept unless the configuration says otherwise."""
_AHEAD_MS = 3_600_000
_FILE_BYTES = 2 << 30
"""Of an embedded database, unless the configuration says otherwise: it shares its disk with the journal."""


class SqlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`password` comes from the environment or, with `_file`, from a file read at each connection."""

    url: str = ""
    """`sqlite:////absolute/path` or `postgresql+psycopg://user@host:port/database`; empty: `server/tidegauge.db` in the state
    folder."""
    password: str = ""
    """Of a PostgreSQL role."""
    password_file: Path | None = None
    query_url: str = ""
    """PostgreSQL: address of a role for questions in SQL that may SELECT the views and nothing else. Empty: none are asked."""
    query_password_file: Path | None = None
    """Its password, read at each question."""
    state_dir: Path = Path("/var/lib/tidegauge")
    retention_s: Annotated[float, msgspec.Meta(ge=0)] = 7 * 86400.0
    """Age at which samples, events, gaps and containers that ended are deleted; 0 keeps them."""
    rollup_5m_retention_s: Annotated[float, msgspec.Meta(ge=0)] = 30 * 86400.0
    """Age at which roll-ups of 5 minutes are deleted; 0 keeps them."""
    rollup_1h_retention_s: Annotated[float, msgspec.Meta(ge=0)] = 2 * 365 * 86400.0
    """Age at which roll-ups of an hour are deleted; 0 keeps them."""
    retention_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Size above which the oldest are deleted, of samples and roll-ups in proportion to their retention; 0 for no bound.
    Unset: 2 GiB for SQLite, no bound for PostgreSQL. Counts pages in use, not the file, which never shrinks."""
    event_age_limit_s: Mapping[str, Annotated[float, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    """Age at which events are deleted before `retention_s`, by kind; `default` for all others. 0: no such bound."""
    event_limit: Mapping[str, Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    """How many events are kept, by kind; `default` for all others, a million unless it is set. 0: no such bound."""
    busy_timeout_s: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    """SQLite: how long a write waits for another program's lock before it fails and is tried again."""
    answer_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """PostgreSQL: how long the server may say nothing to a write before the connection is given up and it is tried again."""

    def __repr__(self) -> str:
        shown = (
            f"{n}={'***' if n == 'password' and self.password else repr(getattr(self, n))}" for n in self.__struct_fields__
        )
        return f"SqlConfig({', '.join(shown)})"


class SqlSink:
    """Idempotent. Stores every record type; each epoch of an instance is a container of its own."""

    Config: ClassVar[type[Any]] = SqlConfig
    takes: tuple[type, ...] = (Batch, Schema, Container, Event, Gap, End)

    def __init__(self, config: SqlConfig) -> None:
        if config.password and config.password_file is not None:
            raise ConfigError("sinks.sql.password_file: expected one of password and password_file, got both")
        self.url = config.url or f"sqlite:///{(config.state_dir / 'server' / 'tidegauge.db').absolute()}"
        self.database = open_database(
            self.url,
            busy_timeout_s=config.busy_timeout_s,
            password=config.password,
            password_file=config.password_file,
        )
        self.conflict_rows = 0
        """Rows that came again with other values, since the start."""
        self.maintenance_interval_s = retention.IDLE_S
        """Short while a call of `maintain` left work to do."""
        self._config = config
        self._engine = self.database.writing_engine(config.answer_timeout_s)
        self._history = SqlHistory(self.database, _HISTORY_LIMIT_S)
        self._conn: sa.Connection | None = None
        self._kept_ms: int | None = None
        """When nothing was left to delete; None: there may be."""
        self._ahead_ms = 0
        """When to look again for what tomorrow's rows will need."""
        self._columns: Mapping[str, Sequence[str]] = {}
        self.agent: str | None = None
        """Whose numbers of containers the records bear; None: those of the agent on the state folder."""
        self._agent = ""
        self._store: Store | None = None
        self._rollup: Rollup | None = None
        self._retention: Retention | None = None

    @property
    def path(self) -> Path:
        """File of an embedded database."""
        return Path(str(sa.make_url(self.url).database))

    def counters(self) -> Mapping[str, int]:
        return {"conflict_rows": self.conflict_rows}

    def history(self) -> SqlHistory:
        """What it has stored, over connections of its own that can only read. Any thread."""
        return self._history

    def query_target(self) -> QueryTarget:
        """How questions in SQL reach the store. QueryError where none may be asked. Any thread."""
        return query_target(self.url, self._config.query_url, self._config.query_password_file)

    def tables(self) -> "SqlTables":
        """Its tables, to be read as they are, over a connection of their own. StoreError if they cannot be."""
        from tidegauge.sinks.sql.sql_tables import SqlTables

        return SqlTables(self.database.reading_engine())

    def records(self) -> "TableRecords":
        """What it has stored, as the records that it came from. StoreError if the tables cannot be read."""
        from tidegauge.sinks.sql.tables_source import TableRecords

        return TableRecords(self.tables())

    def take_along(self, source: "RecordSource", since_ms: int, until_ms: int) -> "Iterator[Taken]":
        """Roll-ups, of a source that has tables. Raises SinkError, StoreError."""
        from tidegauge.sinks.sql.rollup_copy import take_rollups
        from tidegauge.sinks.sql.tables_source import TableRecords

        if not isinstance(source, TableRecords):
            return
        try:
            with self._engine.connect() as conn:
                self._check_writer(conn)
                conn.rollback()
                yield from take_rollups(source.tables, conn, self.database, since_ms, until_ms)
        except Exception as exc:
            if (error := self.database.error(exc)) is not None:
                raise error from exc
            raise

    def open(self) -> None:
        """Connects; an embedded database is made if there is none, and migrated. RetryableError if that cannot be now."""
        self.close()
        self._agent = _agent(self._config.state_dir) if self.agent is None else self.agent
        try:
            self._conn = conn = self._engine.connect()
            found = revision(conn)
            if found != REVISION and self.database.is_embedded:
                self._migrate(conn)
            elif found is None:
                raise RetryableError(
                    f"{self.database.name}: expected tables of tidegauge, got none: run `tidegauge db upgrade`",
                    is_config_fault=True,
                )
            self._check_writer(conn)
            self._columns = columns(conn, metadata.tables)
            conn.rollback()
        except Exception as exc:
            self.close()
            if (error := self._meaning(exc)) is not None:
                raise error from exc
            raise

    def _meaning(self, exc: Exception) -> SinkError | None:
        """As `Database.error`; a file that is damaged is set aside, and the next opening makes a new one."""
        error = self.database.error(exc)
        if not isinstance(error, DamagedError):
            return error
        self.close()
        aside = self.database.set_aside()
        self._history.close()
        if aside is None:
            text = f"{error}: restore it, or remove it and what was set aside before ({self.database.name}.damaged-*)"
            return RetryableError(text, is_config_fault=True)
        return StoreLostError(f"{error}: it is kept as {aside}, and a new one is begun")

    def _migrate(self, conn: sa.Connection) -> None:
        """In a process of its own, so that the 11 MiB of Alembic do not stay; here if that fails, for the error's sake."""
        if "alembic" not in sys.modules:
            code = "import sys; from tidegauge.sinks.sql.migrate import upgrade; upgrade(sys.argv[1])"
            subprocess.run([sys.executable, "-P", "-c", code, self.url], capture_output=True, timeout=300, check=False)
            if revision(conn) == REVISION:
                return
        from tidegauge.sinks.sql.migrate import upgrade_connection

        upgrade_connection(self.database, conn)

    def write(self, records: Sequence[Record]) -> None:
        if self._conn is None:
            self.open()
        assert self._conn is not None
        conn = self._conn
        try:
            with conn.begin():
                # Also keeps a migration of a server's tables out for as long as the transaction takes.
                self._check_writer(conn)
                if self._store is None:
                    self._store = Store(conn, self.database.writer(conn), self._columns, self._agent)
                conflicts = self._store.write(records)
            self.conflict_rows += conflicts
        except Exception as exc:
            # Ids given out in a transaction that was undone stand for nothing.
            self._store = None
            error = self._meaning(exc)
            if isinstance(error, RetryableError):
                # A failed disk, or a file put in place of another, is seen anew by a new connection only.
                self.close()
            if error is not None:
                raise error from exc
            raise

    def maintain(self, now_ms: int, is_stopping: Callable[[], bool]) -> None:
        """Makes roll-ups and deletes what is too old or too much, at most some 40 ms a call; the rest at the next, soon."""
        if self._conn is None:
            return
        if self._rollup is None or self._retention is None:
            self._rollup = Rollup(self._conn, self.database, self._columns)
            self._retention = Retention(self._conn, self.database, self._resolutions(), self._most_bytes())
        marks = None if self._store is None else self._store.marks
        start_s = time.monotonic()

        def is_half_over() -> bool:
            return is_stopping() or time.monotonic() >= start_s + retention.BUDGET_S / 2

        def is_over() -> bool:
            return is_stopping() or time.monotonic() >= start_s + retention.BUDGET_S

        try:
            if now_ms >= self._ahead_ms:
                self.database.make_ahead(self._conn, now_ms)
                self._ahead_ms = now_ms + _AHEAD_MS
            is_rolled_up = self._rollup.run(now_ms, marks, is_half_over)
            is_kept = self._is_kept_at(now_ms)
            if is_rolled_up or not is_kept:
                is_kept = self._delete_old(now_ms, is_over)
                self._kept_ms = now_ms if is_kept else None
        except Exception as exc:
            error = self._meaning(exc)
            if self._conn is not None and self._conn.invalidated:
                # It would connect again by itself, to a session without the temporary tables of this one.
                self.close()
            if error is not None:
                raise error from exc
            raise
        self.maintenance_interval_s = retention.IDLE_S if is_kept else retention.BUSY_S
        if not is_rolled_up:
            self.maintenance_interval_s = rollup.BUSY_S

    def _is_kept_at(self, now_ms: int) -> bool:
        """True if all that was too old or too much was deleted a moment ago: looking costs as much as a slice of roll-ups."""
        return self._kept_ms is not None and 0 <= now_ms - self._kept_ms < 1000 * retention.IDLE_S

    def _delete_old(self, now_ms: int, is_over: Callable[[], bool]) -> bool:
        """True if nothing is left to delete."""
        assert self._conn is not None
        assert self._rollup is not None
        assert self._retention is not None
        if not retention.run_events(self._conn, lambda kind: self._event_bounds(kind, now_ms), is_over):
            return False
        if not self._rollup.is_leader:
            return True
        live = self._store.live_ids() if self._store is not None else set()
        return self._retention.run(now_ms, live, is_over)

    def _resolutions(self) -> list[Resolution]:
        keep_s = {0: self._config.retention_s}
        keep_s[FIVE_MINUTES_MS] = self._config.rollup_5m_retention_s
        keep_s[HOUR_MS] = self._config.rollup_1h_retention_s
        rolled = rolled_tables(self._columns)
        tables = {width_ms: [table.name(width_ms) for table in rolled] for width_ms in (FIVE_MINUTES_MS, HOUR_MS)}
        tables[0] = [table for table in SAMPLE_TABLES if table in self._columns]
        return [
            Resolution(width_ms, tables[width_ms], round(1000 * of) if of else None, round(1000 * (of or _SHARES_S[width_ms])))
            for width_ms, of in keep_s.items()
        ]

    def _most_bytes(self) -> int:
        most = self._config.retention_bytes
        if most is None:
            most = _FILE_BYTES if self.database.is_embedded else 0
        return most

    def _event_bounds(self, kind: str, now_ms: int) -> retention.EventBounds:
        ages, counts = self._config.event_age_limit_s, self._config.event_limit
        age_s = ages.get(kind, ages.get("default", 0.0))
        count = counts.get(kind, counts.get("default", _EVENTS))
        return retention.EventBounds(now_ms - round(age_s * 1000) if age_s else None, count)

    def close(self) -> None:
        conn, self._conn = self._conn, None
        self._store = self._rollup = self._retention = None
        if conn is not None:
            conn.close()
        self._engine.dispose()

    def _check_writer(self, conn: sa.Connection) -> None:
        low, high = conn.exec_driver_sql("SELECT min_version, max_version FROM writer").one()
        if not low <= WRITER_VERSION <= high:
            raise RetryableError(
                f"{self.database.name} takes rows of writer versions {low} to {high}, this program is version "
                f"{WRITER_VERSION}: " + ("install a newer tidegauge" if low > WRITER_VERSION else "run `tidegauge db upgrade`"),
                is_config_fault=True,
            )


def _agent(state_dir: Path) -> str:
    """UUID of the agent whose log is read; empty without a state folder."""
    try:
        return (state_dir / "source").read_text().strip()
    except OSError:
        return ""
