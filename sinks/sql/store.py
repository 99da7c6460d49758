"""Records of one write -> rows, inside its transaction. What it has learned holds until a transaction is undone.

An agent's container numbers are its own: where several agents share a database, `container.agent` tells whose they are.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from tidegauge.pipeline.errors import PermanentError
from tidegauge.pipeline.records import Batch, Container, End, Event, Gap, Record, Sample, Schema, Spec
from tidegauge.sinks.sql.database import Writer
from tidegauge.sinks.sql.rollup_marks import Marks
from tidegauge.sinks.sql.rows import Columns, Insert, Plan
from tidegauge.sinks.sql.tables import SPEC_COLUMNS, container_metadata, sql_name

_JSON = msgspec.json.Encoder(order="sorted")
_JSON_COLUMNS = ("aliases", "labels", "environment", "machine")
_METADATA_COLUMNS = tuple(c.name for c in container_metadata.columns if not c.primary_key)

_CONTAINER = """
INSERT INTO container (source, instance, epoch, agent, number, host, path, boot_id, created_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (source, instance, epoch)
DO UPDATE SET agent = excluded.agent, number = excluded.number, host = excluded.host RETURNING id
"""
_METADATA = f"""
INSERT INTO container_metadata (container, valid_from_ms, {", ".join(_METADATA_COLUMNS)})
VALUES (?, ?{", ?" * len(_METADATA_COLUMNS)})
ON CONFLICT (container, valid_from_ms) DO UPDATE SET {", ".join(f"{c} = excluded.{c}" for c in _METADATA_COLUMNS)}
"""
SPAN = """
SET first_ms = CASE WHEN excluded.first_ms < container_span.first_ms THEN excluded.first_ms ELSE container_span.first_ms END,
    last_ms = CASE WHEN excluded.last_ms > container_span.last_ms THEN excluded.last_ms ELSE container_span.last_ms END
WHERE excluded.last_ms > container_span.last_ms OR excluded.first_ms < container_span.first_ms
"""
_BY_NUMBER = """
SELECT id FROM container WHERE agent = ? AND number = ?
ORDER BY (SELECT min(valid_from_ms) FROM container_metadata WHERE container = container.id) <= ? DESC, id DESC LIMIT 1
"""
_END = "UPDATE container SET ended_ms = ? WHERE id = ?"


class Store:
    """Writes records over one connection; `agent` is the UUID of the agent whose log they come from."""

    def __init__(self, conn: sa.Connection, writer: Writer, columns: Columns, agent: str) -> None:
        self._conn = conn
        self._writer = writer
        self._columns = columns
        self._agent = agent
        self._ids: dict[int, int] = {}
        self._known: dict[int, Container] = {}
        """Whose the numbers of `_ids` are."""
        self._checked: Mapping[int, Container] | None = None
        """The containers of a batch with which `_known` agrees."""
        self._plans: dict[int, Plan] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self.marks = Marks(conn)
        """On the roll-ups that the rows change."""
        self._metrics = Insert("metric", ("name", "kind", "unit", "stored_in", "help"), 1)
        self._events = Insert("event", ("source", "row", "ts_ms", "kind", "container", "details"), 2)
        self._gaps = Insert("gap", ("source", "row", "from_ms", "to_ms", "reason", "container", "rows_lost"), 2)

    def live_ids(self) -> set[int]:
        """Ids of the containers that are written to."""
        return set(self._ids.values())

    def write(self, records: Sequence[Record]) -> int:
        """Everything of one write. Returns the number of rows that are there with other values.

        Agents that share a database touch the same rows in one table only, `metric`: in the order of names, so that none
        waits for another that waits for it.
        """
        for record in records:
            if isinstance(record, Batch):
                self._add_batch(record)
            elif isinstance(record, Container):
                self._add_container(record)
            elif isinstance(record, Schema):
                self._add_schema(record)
            elif isinstance(record, End):
                # Later than its beginning: at one time the number is the one's that ends.
                self._conn.exec_driver_sql(_END, (record.ts_ms, self._id_of(record.container, record.ts_ms - 1)))
                self._drop(record.container)
            elif isinstance(record, Event):
                self._add_event(record)
            else:
                self._add_gap(record)
        if self._metrics.rows:
            self._metrics.rows.sort()
            self._writer.insert(self._metrics)
            self._metrics.rows.clear()
        conflicts = sum(self._flush(insert) for insert in self._inserts() if insert.rows)
        if self._spans:
            spans = Insert("container_span", ("container", "first_ms", "last_ms"), 1, SPAN)
            spans.rows = sorted((id_, first, last) for id_, (first, last) in self._spans.items())
            self._writer.insert(spans)
            self._spans.clear()
        self.marks.flush(self._writer)
        return conflicts

    def _inserts(self) -> Iterable[Insert]:
        for plan in self._plans.values():
            yield from plan.inserts
        yield from (self._events, self._gaps)

    def _flush(self, insert: Insert) -> int:
        conflicts = self._writer.insert(insert)
        insert.rows.clear()
        return conflicts

    def _add_batch(self, batch: Batch) -> None:
        by_schema: dict[int, list[Sample]] = {}
        for s in batch.samples:
            by_schema.setdefault(s.schema, []).append(s)
        if batch.containers is not self._checked:
            self._check(batch.containers)
        known, spans = self._ids, self._spans
        for schema_id, samples in by_schema.items():
            plan = self._plans.get(schema_id) or self._add_schema(batch.schemas[schema_id])
            try:
                ids = [known[s.container] for s in samples]
            except KeyError:
                for number in dict.fromkeys(s.container for s in samples if s.container not in known):
                    if (container := batch.containers.get(number)) is not None:
                        self._add_container(container)
                ids = [self._id_of(s.container, s.ts_ms) for s in samples]
            plan.add(samples, ids)
            self.marks.rows(samples, ids)
            for id_, s in zip(ids, samples, strict=True):
                ts_ms = s.ts_ms
                span = spans.get(id_)
                spans[id_] = (ts_ms, ts_ms) if span is None else (min(span[0], ts_ms), max(span[1], ts_ms))

    def _add_schema(self, schema: Schema) -> Plan:
        if (plan := self._plans.get(schema.id)) is not None:
            return plan
        metrics = [*schema.metrics, *(m for t in schema.tables for m in t.metrics)]
        self._metrics.rows.extend((m.name, str(m.kind), m.unit, sql_name(m.table), m.help) for m in metrics)
        plan = self._plans[schema.id] = Plan(schema, self._columns)
        return plan

    def _add_container(self, c: Container) -> None:
        key = (c.source, c.instance, c.epoch, self._agent, c.number, c.host, c.path, c.boot_id, c.created_ms)
        id_ = self._conn.exec_driver_sql(_CONTAINER, key).scalar_one()
        self.marks.container(c, id_)
        self._conn.exec_driver_sql(_METADATA, (id_, c.valid_from_ms, *_metadata_values(c)))
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
        if (id_ := self._ids.pop(number, None)) is not None:
            self.marks.forget(id_)
        self._known.pop(number, None)

    def _id_of(self, number: int, ts_ms: int) -> int:
        """Id of a container by its number at a time: of one seen since the start, else stored. PermanentError if neither.

        Where a number was given out twice, a repeat of old rows finds the one that had it then.
        """
        known = self._known.get(number)
        if known is not None and known.valid_from_ms <= ts_ms:
            return self._ids[number]
        id_: int | None = self._conn.exec_driver_sql(_BY_NUMBER, (self._agent, number, ts_ms)).scalar()
        if id_ is None:
            raise PermanentError(f"no container record for number {number}")
        return id_

    def _add_event(self, e: Event) -> None:
        id_ = None if e.container is None else self._id_of(e.container, e.ts_ms)
        self._events.rows.append((e.source, e.row, e.ts_ms, e.kind, id_, _json(e.details)))

    def _add_gap(self, g: Gap) -> None:
        id_ = None if g.container is None else self._id_of(g.container, g.from_ms)
        self.marks.gap(g, id_)
        self._gaps.rows.append((g.source, g.row, g.from_ms, g.to_ms, g.reason, id_, g.rows))


def _metadata_values(c: Container) -> tuple[object, ...]:
    """Values of _METADATA_COLUMNS."""
    spec = c.spec or Spec()
    values = (getattr(spec if name in SPEC_COLUMNS else c, name) for name in _METADATA_COLUMNS)
    named = zip(_METADATA_COLUMNS, values, strict=True)
    return tuple(_json(v) if name in _JSON_COLUMNS and v is not None else v for name, v in named)


def _json(value: object) -> str:
    return _JSON.encode(value).decode()
