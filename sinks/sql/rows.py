"""Samples -> tuples for the driver, by a plan made once a schema. Pure; no I/O.

A plan knows which values go to which columns of this very database: a metric without a column (a plug-in's, or a newer
program's) goes to the narrow `custom` table. The rows of one write are gathered by statement, so that each statement runs
once a commit.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

from tidegauge.pipeline.catalogue import SCALAR_TABLES
from tidegauge.pipeline.records import Metric, Sample, Schema, Values
from tidegauge.sinks.sql.tables import sql_name

Row = tuple[object, ...]
Columns = Mapping[str, Sequence[str]]
"""Columns of each table that the database has."""


class Insert:
    """Rows gathered for one table. `keys` leading columns are its key.

    A row whose key is there already is left alone, or changed by `update`: `SET ... [WHERE ...]`, in which `excluded` is the
    new row.
    """

    def __init__(self, table: str, columns: Sequence[str], keys: int, update: str = "") -> None:
        self.table = table
        self.columns = tuple(columns)
        self.keys = keys
        self.update = update
        self.rows: list[Row] = []


CUSTOM = ("ts_ms", "container", "metric", "instance", "value")


class Plan:
    """Where the values of one schema go. Made for one database; not shared by threads."""

    def __init__(self, schema: Schema, columns: Columns) -> None:
        self.custom = Insert("custom", CUSTOM, 4)
        self._customs: list[tuple[str, int]] = []
        places: dict[str, list[tuple[str, int]]] = {name: [] for name in SCALAR_TABLES}
        for i, metric in enumerate(schema.metrics):
            if metric.table in places and metric.name in columns.get(metric.table, ()):
                places[metric.table].append((metric.name, i))
            else:
                self._customs.append((metric.name, i))
        core = places.pop("sample")
        self.sample = Insert("sample", ["ts_ms", "container", "is_closing", *(name for name, _ in core)], 2)
        self._core = _picker([i for _, i in core])
        self._sparse = [
            (Insert(table, ["ts_ms", "container", *(name for name, _ in found)], 2), _picker([i for _, i in found]))
            for table, found in places.items()
            if found
        ]
        self._tables = [_TablePlan(sql_name(t.name), t.instance_label, t.metrics, columns) for t in schema.tables]
        self.inserts = [self.sample, *(i for i, _ in self._sparse), *(t.insert for t in self._tables if t.insert), self.custom]

    def add(self, samples: Sequence[Sample], ids: Sequence[int]) -> None:
        """Gathers the rows of samples of this schema; `ids[i]` is the database's id of `samples[i]`'s container."""
        core = self._core
        self.sample.rows.extend(
            [(s.ts_ms, id_, s.is_closing) + core(s.values) for s, id_ in zip(samples, ids, strict=True)]  # noqa: RUF005
        )
        for insert, pick in self._sparse:
            for s, id_ in zip(samples, ids, strict=True):
                values = pick(s.values)
                if any(v is not None for v in values):
                    insert.rows.append((s.ts_ms, id_, *values))
        for name, i in self._customs:
            self.custom.rows.extend(
                (s.ts_ms, id_, name, "", v)
                for s, id_ in zip(samples, ids, strict=True)
                if (v := s.values[i]) is not None and v == v  # NaN is no value
            )
        if self._tables:
            for s, id_ in zip(samples, ids, strict=True):
                for plan, rows in zip(self._tables, s.tables, strict=False):
                    if rows:
                        plan.add(s.ts_ms, id_, rows, self.custom.rows)

    def clear(self) -> None:
        """Lets go of the rows gathered so far."""
        for insert in self.inserts:
            insert.rows.clear()


class _TablePlan:
    """Where the values of one instance table go."""

    def __init__(self, table: str, label: str, metrics: Sequence[Metric], columns: Columns) -> None:
        known = columns.get(table, ()) if table != "custom" else ()
        found = [(m.name, i) for i, m in enumerate(metrics, 1) if m.name in known]
        self._customs = [(m.name, i) for i, m in enumerate(metrics, 1) if m.name not in known]
        self.insert: Insert | None = None
        if label in known:
            self.insert = Insert(table, ["ts_ms", "container", label, *(name for name, _ in found)], 3)
            self._pick = _picker([0, *(i for _, i in found)])

    def add(self, ts_ms: int, id_: int, rows: Sequence[Values | tuple[object, ...]], custom: list[Row]) -> None:
        if self.insert is not None:
            pick = self._pick
            # a row without any value was not read: there is nothing to store
            self.insert.rows.extend(
                [(ts_ms, id_) + pick(row) for row in rows if row.count(None) < len(row) - 1]  # noqa: RUF005
            )
        for name, i in self._customs:
            custom.extend((ts_ms, id_, name, str(row[0]), v) for row in rows if (v := row[i]) is not None and v == v)


def _picker(places: Sequence[int]) -> Callable[[Sequence[object]], Row]:
    """A function from values to the tuple of those at these places; a slice where they are neighbours in order."""
    if not places:
        return lambda _: ()
    first = places[0]
    if list(places) == list(range(first, first + len(places))):
        return itemgetter(slice(first, first + len(places)))
    if len(places) == 1:
        return lambda values: (values[first],)
    return itemgetter(*places)
