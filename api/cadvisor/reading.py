"""What is known of a container at one time, by name: the form that samples of the memory and the SQL store take here.

Pure. A sample need not hold everything, so readings are carried: what a sample does not say stays as it was.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from tidegauge.pipeline.latest import Latest
from tidegauge.pipeline.plugin import Point
from tidegauge.pipeline.records import Schema, Value

Row: TypeAlias = Mapping[str, Value]
Table: TypeAlias = Mapping[str, Row]
_NO_TABLE: Table = {}
_SCHEMAS = 64


class Reading(NamedTuple):
    ts_ms: int
    values: Mapping[str, Value]
    tables: Mapping[str, Table]
    number: int = 0
    """Of the container's epoch: nothing is subtracted across two of them."""

    def value(self, name: str) -> int:
        """As a whole number; what is unknown is 0, as in cAdvisor's JSON."""
        return int(self.values.get(name) or 0)

    def table(self, name: str) -> Table:
        return self.tables.get(name, _NO_TABLE)


class _Names:
    """Names of a schema's values, made once."""

    def __init__(self, schema: Schema) -> None:
        self.values = schema.names
        self.tables = tuple((t.name, tuple(m.name for m in t.metrics)) for t in schema.tables)


_names: dict[int, _Names] = {}


def _names_of(schema: Schema) -> _Names:
    known = _names.get(schema.id)
    if known is None:
        if len(_names) >= _SCHEMAS:
            _names.clear()
        known = _names[schema.id] = _Names(schema)
    return known


def of_latest(latest: Latest, number: int = 0) -> Reading:
    names = _names_of(latest.schema)
    tables: dict[str, Table] = {}
    for (name, metrics), rows in zip(names.tables, latest.tables, strict=False):
        if rows is not None:
            tables[name] = {str(row[0]): dict(zip(metrics, row[1:], strict=True)) for row in rows}  # type: ignore[arg-type]
    return Reading(latest.ts_ms, dict(zip(names.values, latest.values, strict=True)), tables, number)


def carried(points: Iterable[Point], before: Reading | None = None) -> Iterator[Reading]:
    """Each point with what those before it said and it does not."""
    for point in points:
        values, tables = point.values, point.tables
        if before is not None:
            values = {**before.values, **values}
            tables = {**before.tables, **tables}
        before = Reading(point.ts_ms, values, tables)
        yield before


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") if seconds >= 0 else "1970-01-01T00:00:00"


def go_time(ts_ms: int) -> str:
    """RFC 3339 as Go writes it: no more digits of the second than needed."""
    seconds, ms = divmod(ts_ms, 1000)
    return f"{_second(seconds)}.{f'{ms:03d}'.rstrip('0')}Z" if ms else f"{_second(seconds)}Z"
