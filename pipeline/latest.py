"""The newest known value of each metric of a container, merged over its samples: what a page of the present is made from.

A sample need not hold everything: a closing one has the CPU counters alone, and what slow collectors read joins some samples
only. So a value that is None leaves the last one in force, and a table that was not read its last rows; rows of a table that
was read replace all of its rows, so that an interface that is gone is gone. Of these a row without any value says that it is
there and was not read: its last one stays in force. Nothing outlives its container.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from tidegauge.pipeline.records import Container, Sample, Schema, TableRows, Values


class Latest:
    """Values and tables in the order of `schema`, as of `ts_ms`, the time of the newest sample. Never changed once made."""

    __slots__ = ("schema", "tables", "ts_ms", "values")

    def __init__(self, ts_ms: int, schema: Schema, values: Values, tables: tuple[TableRows | None, ...]) -> None:
        self.ts_ms = ts_ms
        self.schema = schema
        self.values = values
        self.tables = tables


def merged(before: Latest | None, sample: Sample, schema: Schema) -> Latest:
    """What is known after the sample; `before` is left as it is. Pure."""
    if before is None:
        return Latest(sample.ts_ms, schema, sample.values, sample.tables)
    if before.schema.id != schema.id:
        before = _carried(before, schema)
    values = tuple([old if new is None else new for new, old in zip(sample.values, before.values, strict=True)])
    tables = sample.tables
    if not tables:
        tables = before.tables
    elif before.tables:
        tables = tuple([old if new is None else _rows(new, old) for new, old in zip(tables, before.tables, strict=True)])
    return Latest(sample.ts_ms, schema, values, tables)


def _rows(new: TableRows, old: TableRows | None) -> TableRows:
    if not old or not any(row.count(None) == len(row) - 1 for row in new):
        return new
    last = {row[0]: row for row in old}
    return tuple([last.get(row[0], row) if row.count(None) == len(row) - 1 else row for row in new])


def _carried(before: Latest, schema: Schema) -> Latest:
    """The same values in the order of another schema, by name: collectors joined, or ended, while the container lives."""
    values = dict(zip(before.schema.metrics, before.values, strict=True))
    tables = dict(zip(before.schema.tables, before.tables, strict=False))
    return Latest(
        before.ts_ms,
        schema,
        tuple([values.get(m) for m in schema.metrics]),
        tuple([tables.get(t) for t in schema.tables]) if before.tables else (),
    )


@runtime_checkable
class KeepsLatest(Protocol):
    """A store that knows the newest values of each living container. Safe from any thread."""

    @property
    def generation(self) -> int:
        """Moves whenever something was written."""
        ...

    def latest(self) -> Sequence[tuple[Container, Latest | None]]:
        """Containers that have not ended, ordered by path, of this host and of others; None: no sample yet."""
        ...


@runtime_checkable
class KeepsSamples(KeepsLatest, Protocol):
    """A store that also has the last samples as they were written. Safe from any thread."""

    def samples(self, instance: str) -> Sequence[tuple[Sample, Schema]]:
        """All that are held of an instance, oldest first, all epochs in log order."""
        ...
