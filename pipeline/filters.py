"""What a sink is not given: metrics, containers and labels by pattern; and the tags that it is given on top.

A pure function of the record and the options: a repeat is filtered the same way. Patterns are those of a shell, in which
`*` matches `/` too; a container is matched by its cgroup path or its name.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from typing import NamedTuple

import msgspec

from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.records import Container, Sample, Schema, TableRows, TableSchema


def any_of(patterns: Iterable[str]) -> Callable[[str], object] | None:
    """A test whether a text matches one of the patterns; None if there are none."""
    joined = "|".join(translate(p) for p in patterns)
    return re.compile(joined).match if joined else None


class _Projection(NamedTuple):
    """How a sample of one schema becomes one of the filtered schema."""

    schema: Schema | None
    """None: no metric is left."""
    values: tuple[int, ...]
    tables: tuple[tuple[int, tuple[int, ...]], ...]
    """(index of the table, indices of the cells kept, the instance name being cell 0)."""


class Filter:
    """The filters of one sink. One thread; remembers what it found for each schema."""

    def __init__(self, options: RunnerOptions) -> None:
        self._metric_in = any_of(options.metrics_include)
        self._metric_out = any_of(options.metrics_exclude)
        self._container_in = any_of(options.containers_include)
        self._container_out = any_of(options.containers_exclude)
        self._label_in = None if options.labels is None else any_of(options.labels)
        self._drops_labels = options.labels is not None
        self._tags = dict(options.tags)
        self._projections: dict[int, _Projection] = {}
        self.keeps_metrics = self._metric_in is None and self._metric_out is None
        self.keeps_containers = self._container_in is None and self._container_out is None

    def takes_metric(self, name: str) -> bool:
        if self._metric_out is not None and self._metric_out(name):
            return False
        return self._metric_in is None or self._metric_in(name) is not None

    def takes_container(self, container: Container) -> bool:
        names = (container.path,) if container.name is None else (container.path, container.name)
        if self._container_out is not None and any(self._container_out(n) for n in names):
            return False
        return self._container_in is None or any(self._container_in(n) for n in names)

    def container(self, container: Container) -> Container:
        """The container with the labels that pass and the tags."""
        if not self._drops_labels and not self._tags:
            return container
        labels = dict(container.labels)
        if self._drops_labels:
            labels = {k: v for k, v in labels.items() if self._label_in is not None and self._label_in(k)}
        return msgspec.structs.replace(container, labels=labels | self._tags)

    def schema(self, schema: Schema) -> Schema | None:
        """The schema of what is left of its samples; None if nothing is."""
        return schema if self.keeps_metrics else self._projection(schema).schema

    def samples(self, samples: Sequence[Sample], rows: Sequence[int], schema: Schema) -> tuple[list[Sample], list[int]]:
        """Samples of one schema, and their rows, of which a value is left."""
        projection = self._projection(schema)
        out: list[Sample] = []
        kept: list[int] = []
        if projection.schema is None:
            return out, kept
        new_id = projection.schema.id
        for sample, row in zip(samples, rows, strict=True):
            values = tuple(sample.values[i] for i in projection.values)
            tables: tuple[TableRows | None, ...] = ()
            if sample.tables:
                tables = tuple(_columns(sample.tables[at], cells) for at, cells in projection.tables)
            if any(v is not None for v in values) or any(tables):
                out.append(Sample(sample.container, sample.ts_ms, new_id, values, tables, sample.is_closing))
                kept.append(row)
        return out, kept

    def _projection(self, schema: Schema) -> _Projection:
        found = self._projections.get(schema.id)
        if found is None:
            found = self._projections[schema.id] = self._project(schema)
        return found

    def _project(self, schema: Schema) -> _Projection:
        values = tuple(i for i, m in enumerate(schema.metrics) if self.takes_metric(m.name))
        tables = []
        cells = []
        for at, table in enumerate(schema.tables):
            kept = tuple(i for i, m in enumerate(table.metrics) if self.takes_metric(m.name))
            if kept:
                tables.append(TableSchema(table.name, table.instance_label, tuple(table.metrics[i] for i in kept)))
                cells.append((at, (0, *(i + 1 for i in kept))))
        if not values and not tables:
            return _Projection(None, (), ())
        return _Projection(Schema.of([schema.metrics[i] for i in values], tables), values, tuple(cells))


def _columns(rows: TableRows | None, cells: tuple[int, ...]) -> TableRows | None:
    return None if rows is None else tuple(tuple(r[i] for i in cells) for r in rows)
