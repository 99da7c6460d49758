"""Held values at a fixed step (`regular_s`): the grid between two successive samples of a container, and nothing else.

A grid point repeats what is known to hold: the values of the sample before, with those of a closing sample laid over them.
It is made when the later sample is delivered, never across a gap and never over more than the container's maximum interval
plus one base interval, since beyond that silence means unknown. Pure but for what it remembers.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from tidegauge.pipeline.rates import max_silence_ms
from tidegauge.pipeline.records import Batch, Container, Gap, Sample, Schema, TableRows, TableSchema, Value
from tidegauge.sinks.influxdb_http import Span, StoredRow
from tidegauge.sinks.line_protocol import instance_tag


class _Held(NamedTuple):
    """What holds from the newest sample of a container on, in the shape of a sample; None: unknown."""

    container: Container
    schema: Schema
    ts_ms: int
    sample: Sample | None


class Grid:
    """Gives the grid points before each sample. What it learns in a write counts from `commit` on."""

    def __init__(self, step_s: float) -> None:
        self._step_ms = max(1, round(step_s * 1000))
        self._held: dict[int, _Held] = {}
        self._staged: dict[int, _Held] = {}

    def unknown(self, batches: Iterable[Batch]) -> dict[int, Span]:
        """Containers never met, with the span in which the sample before their first one may stand in the store."""
        spans: dict[int, Span] = {}
        for batch in batches:
            for s in batch.samples:
                c = batch.containers.get(s.container)
                if c is None or s.schema not in batch.schemas or s.container in self._held:
                    continue
                if s.container not in spans:
                    spans[s.container] = Span(c.instance, c.epoch, c.source, s.ts_ms - max_silence_ms(c), s.ts_ms)
        return spans

    def restore(self, spans: dict[int, Span], rows: Sequence[StoredRow], batches: Iterable[Batch]) -> None:
        """Takes what the store gave back for these spans."""
        by_key: dict[tuple[str, int], list[StoredRow]] = {}
        gaps: list[tuple[str, int]] = []
        for row in rows:
            if row.measurement == "gap":
                gaps.append((row.tags.get("container_number", ""), row.fields.get("to_ms", row.ts_ms)))
            else:
                by_key.setdefault((row.tags.get("instance", ""), int(row.tags.get("epoch", "0"))), []).append(row)
        for batch in batches:
            for s in batch.samples:
                span = spans.pop(s.container, None)
                if span is None:
                    continue
                c, schema = batch.containers[s.container], batch.schemas[s.schema]
                held = _fold(by_key.get((span.instance, span.epoch), ()), c, schema)
                if held is not None and any(n in ("", str(c.number)) and to > held.ts_ms for n, to in gaps):
                    held = None
                self._held[s.container] = _Held(c, schema, span.from_ms if held is None else held.ts_ms, held)

    def before(self, container: Container, schema: Schema, sample: Sample) -> Iterator[tuple[Schema, Sample]]:
        """Grid points between the sample before and this one, oldest first; then this one is the sample before."""
        number = sample.container
        last = self._staged.get(number) or self._held.get(number)
        under = None
        if last is not None:
            if sample.ts_ms <= last.ts_ms:
                return
            under = last.sample
            if under is not None and sample.ts_ms - last.ts_ms <= max_silence_ms(last.container):
                first = last.ts_ms // self._step_ms + 1
                for ts_ms in range(first * self._step_ms, sample.ts_ms, self._step_ms):
                    yield last.schema, msgspec.structs.replace(under, ts_ms=ts_ms)
        held: Sample | None = sample
        if sample.is_closing:
            # Values under another schema cannot be laid over one another by place.
            held = _overlay(under, sample, schema) if under is not None and under.schema == schema.id else None
        self._staged[number] = _Held(container, schema, sample.ts_ms, held)

    def gap(self, gap: Gap) -> None:
        """Nothing is held across it."""
        for number in [gap.container] if gap.container is not None else {*self._held, *self._staged}:
            last = self._staged.get(number) or self._held.get(number)
            if last is not None and last.ts_ms < gap.to_ms and last.container.source == gap.source:
                self._staged[number] = last._replace(sample=None)

    def commit(self) -> None:
        """The write succeeded."""
        self._held |= self._staged
        self._staged = {}
        if len(self._held) > 10_000:
            newest = max(h.ts_ms for h in self._held.values())
            self._held = {n: h for n, h in self._held.items() if newest - h.ts_ms <= max_silence_ms(h.container)}

    def rollback(self) -> None:
        """The write failed and will come again."""
        self._staged = {}


def _overlay(under: Sample, closing: Sample, schema: Schema) -> Sample:
    """The sample with what the closing one proves laid over it, at the closing one's time."""
    values = tuple(u if v is None else v for u, v in zip(under.values, closing.values, strict=True))
    tables: list[TableRows | None] = []
    for i in range(len(schema.tables)):
        lower = under.tables[i] if i < len(under.tables) else None
        upper = closing.tables[i] if i < len(closing.tables) else None
        if not lower or not upper:
            tables.append(upper or lower)
            continue
        rows = {r[0]: r for r in lower}
        for r in upper:
            old = rows.get(r[0], (None,) * len(r))
            rows[r[0]] = tuple(u if v is None else v for u, v in zip(old, r, strict=True))
        tables.append(tuple(rows.values()))
    return msgspec.structs.replace(closing, values=values, tables=tuple(tables), is_closing=False)


def _fold(rows: Iterable[StoredRow], container: Container, schema: Schema) -> Sample | None:
    """The newest stored sample that is not a closing one, with later closing ones laid over it; None without one."""
    by_time: dict[int, list[StoredRow]] = {}
    for row in rows:
        by_time.setdefault(row.ts_ms, []).append(row)
    held: Sample | None = None
    for ts_ms, some in sorted(by_time.items()):
        own: dict[str, Value] = {}
        cells: dict[str, dict[str, dict[str, Value]]] = {}
        is_closing = False
        for row in some:
            fields = dict(row.fields)
            is_closing |= bool(fields.pop("is_closing", False))
            if row.measurement in ("host", "container"):
                own |= fields
            else:
                table = next((t for t in schema.tables if t.name == row.measurement), None)
                if table is not None and (name := row.tags.get(instance_tag(table))):
                    cells.setdefault(table.name, {}).setdefault(name, {}).update(fields)
        values = tuple(own.get(n) for n in schema.names)
        tables = tuple(_rows(t, cells[t.name]) if t.name in cells else None for t in schema.tables)
        sample = Sample(container.number, ts_ms, schema.id, values, tables, is_closing)
        if not is_closing:
            held = sample
        elif held is not None:
            held = _overlay(held, sample, schema)
    return held


def _rows(table: TableSchema, cells: dict[str, dict[str, Any]]) -> TableRows:
    return tuple((name, *(fields.get(m.name) for m in table.metrics)) for name, fields in cells.items())
