"""Stores every record in an SQL database: SQLite, embedded, the default store. Needs no privilege but its own folder.

One write is one transaction. Rows go to the driver as tuples, a statement a table; a key that is there already is left alone,
so a repeat changes nothing. A key that comes again with other values keeps the first ones and counts in `conflict_rows`.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import sqlalchemy as sa

from tidegauge.pipeline.errors import PermanentError, RetryableError
from tidegauge.pipeline.records import Batch, Container, End, Event, Gap, Record, Sample, Schema, Spec
from tidegauge.sinks.sql import retention
from tidegauge.sinks.sql.database import INSERT_IGNORE, file_of, sink_error, writing_engine
from tidegauge.sinks.sql.history import SqlHistory
from tidegauge.sinks.sql.rows import Insert, Plan
from tidegauge.sinks.sql.tables import (
    REVISION,
    SAMPLE_TABLES,
    SPEC_COLUMNS,
    WRITER_VERSION,
    container_metadata,
    metadata,
    sql_name,
)

_HISTORY_LIMIT_S = 10.0
"""How long a question to what is stored may take."""
_EVENTS = 1_000_000
"""Events of a kind that are kept unless the configuration says otherwise."""
_JSON = msgspec.json.Encoder(order="sorted")

_CONTAINER = """
INSERT INTO container (source, instance, epoch, number, host, path, boot_id, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (source, instance, epoch) DO UPDATE SET number = excluded.number, host = excluded.host RETURNING id
"""
_METADATA_COLUMNS = tuple(c.name for c in container_metadata.columns if not c.primary_key)
_JSON_COLUMNS = ("aliases", "labels", "environment", "machine")
_METADATA = f"""
INSERT INTO container_metadata (container, valid_from_ms, {", ".join(_METADATA_COLUMNS)})
VALUES (?, ?{", ?" * len(_METADATA_COLUMNS)})
ON CONFLICT (container, valid_from_ms) DO UPDATE SET {", ".join(f"{c} = excluded.{c}" for c in _METADATA_COLUMNS)}
"""
_SPAN = """
INSERT INTO container_span (container, first_ms, last_ms) VALUES (?, ?, ?) ON CONFLICT (container) DO UPDATE
SET first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms)
WHERE excluded.last_ms > last_ms OR excluded.first_ms < first_ms
"""
_METRIC = f"{INSERT_IGNORE} metric (name, kind, unit, stored_in, help) VALUES (?, ?, ?, ?, ?)"
_BY_NUMBER = """
SELECT id FROM container WHERE number = ?
ORDER BY (SELECT min(valid_from_ms) FROM container_metadata WHERE container = id) <= ? DESC, id DESC LIMIT 1
"""
_END = "UPDATE container SET ended_ms = ? WHERE id = ?"


class SqlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str = ""
    """`sqlite:////absolute/path`; empty: `server/tidegauge.db` in the state folder."""
    state_dir: Path = Path("/var/lib/tidegauge")
    retention_s: Annotated[float, msgspec.Meta(ge=0)] = 7 * 86400.0
    """Age at which samples, events, gaps and containers that ended are deleted; 0 keeps them."""
    retention_bytes: Annotated[int, msgspec.Meta(ge=0)] = 2 << 30
    """Size above which the oldest are deleted; 0 for no bound. Counts pages in use, not the file, which never shrinks."""
    event_age_limit_s: Mapping[str, Annotated[float, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    """Age at which events are deleted before `retention_s`, by kind; `default` for all others. 0: no such bound."""
    event_limit: Mapping[str, Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    """How many events are kept, by kind; `default` for all others, a million unless it is set. 0: no such bound."""
    busy_timeout_s: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    """How long a write waits for another program's lock before it fails and is tried again."""


class SqlSink:
    """Idempotent. Stores every record type; each epoch of an instance is a container of its own."""

    Config: ClassVar[type[Any]] = SqlConfig
    takes: tuple[type, ...] = (Batch, Schema, Container, Event, Gap, End)

    def __init__(self, config: SqlConfig) -> None:
        self.url = config.url or f"sqlite:///{(config.state_dir / 'server' / 'tidegauge.db').absolute()}"
        self.path = file_of(self.url)
        self.conflict_rows = 0
        """Rows that came again with other values, since the start."""
        self.maintenance_interval_s = retention.IDLE_S
        """Short while a call of `maintain` left work to do."""
        self._config = config
        self._engine = writing_engine(self.path, config.busy_timeout_s)
        self._history = SqlHistory(self.path, config.busy_timeout_s, _HISTORY_LIMIT_S)
        self._conn: sa.Connection | None = None
        self._columns: Mapping[str, Sequence[str]] = {}
        self._forget()

    def counters(self) -> Mapping[str, int]:
        return {"conflict_rows": self.conflict_rows}

    def history(self) -> SqlHistory:
        """What it has stored, over connections of its own that can only read. Any thread."""
        return self._history

    def open(self) -> None:
        """Connects, makes the file if there is none and migrates it. RetryableError if that cannot be now."""
        self.close()
        try:
            self._conn = conn = self._engine.connect()
            if _revision(conn) != REVISION:
                self._migrate(conn)
            self._check_writer(conn)
            found = sa.inspect(conn)
            self._columns = {
                name: [c["name"] for c in found.get_columns(name)]
                for name in found.get_table_names()
                if name in metadata.tables
            }
            conn.rollback()
        except Exception as exc:
            self.close()
            if (error := sink_error(exc, self.path)) is not None:
                raise error from exc
            raise

    def _migrate(self, conn: sa.Connection) -> None:
        """In a process of its own, so that the 11 MiB of Alembic do not stay; here if that fails, for the error's sake."""
        conn.rollback()
        if "alembic" not in sys.modules:
            code = "import sys; from tidegauge.sinks.sql.migrate import upgrade; upgrade(sys.argv[1])"
            subprocess.run([sys.executable, "-P", "-c", code, self.url], capture_output=True, timeout=300, check=False)
            if _revision(conn) == REVISION:
                return
            conn.rollback()
        from tidegauge.sinks.sql.migrate import upgrade_connection

        upgrade_connection(conn)

    def write(self, records: Sequence[Record]) -> None:
        if self._conn is None:
            self.open()
        assert self._conn is not None
        conn = self._conn
        try:
            with conn.begin():
                conflicts = self._store(conn, records)
            self.conflict_rows += conflicts
        except Exception as exc:
            # Ids given out in a transaction that was undone stand for nothing.
            self._forget()
            error = sink_error(exc, self.path)
            if isinstance(error, RetryableError):
                # A failed disk, or a file put in place of another, is seen anew by a new connection only.
                self.close()
            if error is not None:
                raise error from exc
            raise

    def maintain(self, now_ms: int, is_stopping: Callable[[], bool]) -> None:
        """Deletes what is too old or too much, at most some 40 ms a call; the rest at the next, which is then soon."""
        if self._conn is None:
            return
        config = self._config
        bounds = retention.Bounds(
            now_ms - int(config.retention_s * 1000) if config.retention_s else None, config.retention_bytes
        )
        deadline = time.monotonic() + retention.BUDGET_S

        def is_over() -> bool:
            return is_stopping() or time.monotonic() >= deadline

        try:
            is_done = retention.run_events(
                self._conn, lambda kind: self._event_bounds(kind, now_ms), is_over
            ) and retention.run(
                self._conn,
                [table for table in SAMPLE_TABLES if table in self._columns],
                bounds,
                set(self._ids.values()),
                is_over,
            )
        except Exception as exc:
            if (error := sink_error(exc, self.path)) is not None:
                raise error from exc
            raise
        self.maintenance_interval_s = retention.IDLE_S if is_done else retention.BUSY_S

    def _event_bounds(self, kind: str, now_ms: int) -> retention.EventBounds:
        ages, counts = self._config.event_age_limit_s, self._config.event_limit
        age_s = ages.get(kind, ages.get("default", 0.0))
        count = counts.get(kind, counts.get("default", _EVENTS))
        return retention.EventBounds(now_ms - round(age_s * 1000) if age_s else None, count)

    def close(self) -> None:
        conn, self._conn = self._conn, None
        self._forget()
        if conn is not None:
            conn.close()
        self._engine.dispose()

    def _forget(self) -> None:
        self._ids: dict[int, int] = {}
        self._known: dict[int, Container] = {}
        """Whose the numbers of `_ids` are."""
        self._checked: Mapping[int, Container] | None = None
        """The containers of a batch with which `_known` agrees."""
        self._plans: dict[int, Plan] = {}

    def _check_writer(self, conn: sa.Connection) -> None:
        low, high = conn.exec_driver_sql("SELECT min_version, max_version FROM writer").one()
        if not low <= WRITER_VERSION <= high:
            raise RetryableError(
                f"{self.path} takes rows of writer versions {low} to {high}, this program is version {WRITER_VERSION}: "
                + ("install a newer tidegauge" if low > WRITER_VERSION else "run `tidegauge db upgrade`"),
                is_config_fault=True,
            )

    def _store(self, conn: sa.Connection, records: Sequence[Record]) -> int:
        """Everything of one write, inside its transaction. Returns the number of conflicts."""
        spans: dict[int, tuple[int, int]] = {}
        others: list[Insert] = []
        for record in records:
            if isinstance(record, Batch):
                self._add_batch(conn, record, spans)
            elif isinstance(record, Container):
                self._add_container(conn, record)
            elif isinstance(record, Schema):
                self._add_schema(conn, record)
            elif isinstance(record, End):
                # Later than its beginning: at one time the number is the one's that ends.
                conn.exec_driver_sql(_END, (record.ts_ms, self._id_of(conn, record.container, record.ts_ms - 1)))
                self._drop(record.container)
            else:
                others.append(self._event(conn, record) if isinstance(record, Event) else self._gap(conn, record))
        inserts: Iterable[Insert] = (i for plan in self._plans.values() for i in plan.inserts if i.rows)
        conflicts = sum(_insert(conn, insert) for insert in [*inserts, *others])
        for plan in self._plans.values():
            plan.clear()
        if spans:
            conn.exec_driver_sql(_SPAN, [(id_, first, last) for id_, (first, last) in spans.items()])
        return conflicts

    def _add_batch(self, conn: sa.Connection, batch: Batch, spans: dict[int, tuple[int, int]]) -> None:
        by_schema: dict[int, list[Sample]] = {}
        for s in batch.samples:
            by_schema.setdefault(s.schema, []).append(s)
        if batch.containers is not self._checked:
            self._check(batch.containers)
        known = self._ids
        for schema_id, samples in by_schema.items():
            plan = self._plans.get(schema_id) or self._add_schema(conn, batch.schemas[schema_id])
            try:
                ids = [known[s.container] for s in samples]
            except KeyError:
                for number in dict.fromkeys(s.container for s in samples if s.container not in known):
                    if (container := batch.containers.get(number)) is not None:
                        self._add_container(conn, container)
                ids = [self._id_of(conn, s.container, s.ts_ms) for s in samples]
            plan.add(samples, ids)
            for id_, s in zip(ids, samples, strict=True):
                ts_ms = s.ts_ms
                span = spans.get(id_)
                spans[id_] = (ts_ms, ts_ms) if span is None else (min(span[0], ts_ms), max(span[1], ts_ms))

    def _add_schema(self, conn: sa.Connection, schema: Schema) -> Plan:
        if (plan := self._plans.get(schema.id)) is not None:
            return plan
        metrics = [*schema.metrics, *(m for t in schema.tables for m in t.metrics)]
        if metrics:
            conn.exec_driver_sql(_METRIC, [(m.name, str(m.kind), m.unit, sql_name(m.table), m.help) for m in metrics])
        plan = self._plans[schema.id] = Plan(schema, self._columns)
        return plan

    def _add_container(self, conn: sa.Connection, c: Container) -> None:
        key = (c.source, c.instance, c.epoch, c.number, c.host, c.path, c.boot_id, c.created_ms)
        id_ = conn.exec_driver_sql(_CONTAINER, key).scalar_one()
        conn.exec_driver_sql(_METADATA, (id_, c.valid_from_ms, *_metadata_values(c)))
        self._ids[c.number] = id_
        self._known[c.number] = c
        self._checked = None

    def _check(self, containers: Mapping[int, Container]) -> None:
        """Forgets the numbers that are another's in this part of the log."""
        for number, c in containers.items():
            known = self._known.get(number)
            if known is not None and known is not c and (known.instance, known.epoch) != (c.instance, c.epoch):
                self._drop(number)
        self._checked = containers

    def _drop(self, number: int) -> None:
        self._ids.pop(number, None)
        self._known.pop(number, None)

    def _id_of(self, conn: sa.Connection, number: int, ts_ms: int) -> int:
        """Id of a container by its number at a time: of one seen since the start, else stored. PermanentError if neither.

        Where a number was given out twice, a repeat of old rows finds the one that had it then.
        """
        known = self._known.get(number)
        if known is not None and known.valid_from_ms <= ts_ms:
            return self._ids[number]
        id_: int | None = conn.exec_driver_sql(_BY_NUMBER, (number, ts_ms)).scalar()
        if id_ is None:
            raise PermanentError(f"no container record for number {number}")
        return id_

    def _event(self, conn: sa.Connection, e: Event) -> Insert:
        id_ = None if e.container is None else self._id_of(conn, e.container, e.ts_ms)
        insert = Insert("event", ("source", "row", "ts_ms", "kind", "container", "details"), 2)
        insert.rows.append((e.source, e.row, e.ts_ms, e.kind, id_, _json(e.details)))
        return insert

    def _gap(self, conn: sa.Connection, g: Gap) -> Insert:
        id_ = None if g.container is None else self._id_of(conn, g.container, g.from_ms)
        insert = Insert("gap", ("source", "row", "from_ms", "to_ms", "reason", "container", "rows_lost"), 2)
        insert.rows.append((g.source, g.row, g.from_ms, g.to_ms, g.reason, id_, g.rows))
        return insert


def _insert(conn: sa.Connection, insert: Insert) -> int:
    """Inserts the gathered rows; returns how many keys were there with other values."""
    rows, keys = insert.rows, insert.keys
    if conn.exec_driver_sql(insert.sql, rows).rowcount == len(rows):
        return 0
    # Through the driver's cursor: SQLAlchemy's way costs 40 us a row, and after an outage a repeat is a whole write.
    cursor = conn.connection.cursor()
    conflicts = 0
    for row in rows:
        cursor.execute(insert.select, row[:keys])
        stored = cursor.fetchone()
        if stored is not None and any(a != b and b == b for a, b in zip(stored, row[keys:], strict=True)):
            conflicts += 1
    cursor.close()
    return conflicts


def _metadata_values(c: Container) -> tuple[object, ...]:
    """Values of _METADATA_COLUMNS."""
    spec = c.spec or Spec()
    values = (getattr(spec if name in SPEC_COLUMNS else c, name) for name in _METADATA_COLUMNS)
    named = zip(_METADATA_COLUMNS, values, strict=True)
    return tuple(_json(v) if name in _JSON_COLUMNS and v is not None else v for name, v in named)


def _json(value: object) -> str:
    return _JSON.encode(value).decode()


def _revision(conn: sa.Connection) -> str | None:
    """Alembic's stamp, read without Alembic."""
    if conn.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").scalar() is None:
        revision = None
    else:
        revision = conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    conn.rollback()
    return revision
