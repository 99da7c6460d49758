"""`/api/v1/metric-export` and its schema, over the newest values that the memory store has."""

from collections.abc import Iterator, Mapping

from tidegauge.api.heapster.memory import MemoryReader
from tidegauge.api.heapster.shapes import (
    ExportedLabel,
    ExportedMetric,
    ExportedPoint,
    ExportedSet,
    ExportSchema,
    time_text,
)
from tidegauge.pipeline.heapster import sets
from tidegauge.pipeline.heapster.metrics import METRICS, RESOURCE, Each, Fact, HeapsterMetric, Scalar, Sum, Type, whole
from tidegauge.pipeline.heapster.sets import Role, SetType
from tidegauge.pipeline.latest import Latest
from tidegauge.pipeline.records import Container, Value

_EXPORTED = [
    m for m in METRICS if isinstance(m.origin, Scalar | Sum | Each) or m.name in ("uptime", "cpu/limit", "memory/limit")
]
_LABELS = {
    "nodename": "name of the host",
    "hostname": "name of the host",
    "host_id": "id of the host's agent",
    "container_name": "name of the container; machine for a node, /pod for a pod",
    "container_base_image": "image of the container",
}
_POD_LABELS = {
    "pod_name": "name of the pod",
    "pod_id": "uid of the pod",
    "namespace_id": "not known here, and left out",
    "labels": "labels of the container, key:value with commas between",
}


def exported(store: MemoryReader) -> list[ExportedSet]:
    """A set for each container that lives and was sampled, ordered by path. Sandboxes of pods are part of their pods."""
    out = []
    for c, newest in store.latest.values():
        if newest is None or (role := sets.role(c)) is Role.SANDBOX:
            continue
        labels = {name: v for name, v in sets.labels(c, c.source).items() if name in _LABELS or name in _POD_LABELS}
        named = {Role.NODE: "machine", Role.POD: "/pod"}.get(role)
        if named is not None:
            labels["container_name"] = named
        metrics = {m.name: points for m in _EXPORTED if (points := list(_points(c, newest, m)))}
        out.append(ExportedSet(metrics, labels))
    return out


def _points(c: Container, newest: Latest, about: HeapsterMetric) -> Iterator[ExportedPoint]:
    end = time_text(newest.ts_ms)
    begin = time_text(c.started_ms or c.created_ms) if about.type is Type.CUMULATIVE else end
    for labels, value in _values(c, newest, about):
        yield ExportedPoint(begin, end, whole(value, about.is_integer), labels or None)


def _values(c: Container, newest: Latest, about: HeapsterMetric) -> Iterator[tuple[Mapping[str, str], float]]:
    origin = about.origin
    if isinstance(origin, Fact):
        for name, value in sets.facts(c, newest.ts_ms):
            if name == about.name:
                yield {}, value
    elif isinstance(origin, Scalar):
        names = newest.schema.names
        value_: Value = newest.values[names.index(origin.metric)] if origin.metric in names else None
        if value_ is not None:
            yield {}, value_
    elif isinstance(origin, Sum):
        cells = [v for _, v in _column(newest, origin.table, origin.metric)]
        if cells:
            yield {}, sum(cells)
    elif isinstance(origin, Each):
        table, metric = origin.of(sets.key(c).type is SetType.NODE)
        for device, cell in _column(newest, table, metric):
            yield {RESOURCE: device}, cell


def _column(newest: Latest, table: str, metric: str) -> Iterator[tuple[str, float]]:
    for schema, rows in zip(newest.schema.tables, newest.tables, strict=False):
        if schema.name != table or not rows:
            continue
        at = next((i for i, m in enumerate(schema.metrics, 1) if m.name == metric), None)
        for row in rows if at is not None else ():
            if isinstance(cell := row[at], int | float):  # type: ignore[index]
                yield str(row[0]), cell


def schema() -> ExportSchema:
    """What an export may hold."""
    resource = [ExportedLabel(RESOURCE, "the device")]
    return ExportSchema(
        [
            ExportedMetric(
                m.name, m.help, m.type.value, "int64" if m.is_integer else "double", m.unit, resource if m.is_labeled else None
            )
            for m in _EXPORTED
        ],
        [ExportedLabel(*pair) for pair in _LABELS.items()],
        [ExportedLabel(*pair) for pair in _POD_LABELS.items()],
    )
