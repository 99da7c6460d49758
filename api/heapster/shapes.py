"""Answers of Heapster's APIs, field for field: the order and the names are the contract's."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

NEVER = "0001-01-01T00:00:00Z"
"""The time of a list without any."""


def time_text(ms: int) -> str:
    """RFC 3339 in UTC; no fraction where there is none."""
    text = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    return text.removesuffix(".000") + "Z"


class Point(msgspec.Struct, frozen=True, omit_defaults=True):
    """`value` is the whole number that Heapster gave, `float_value` what it is where it is none."""

    timestamp: str
    value: int
    float_value: float | None = msgspec.field(default=None, name="floatValue")


class Points(msgspec.Struct, frozen=True):
    metrics: Sequence[Point]
    latest: str = msgspec.field(default=NEVER, name="latestTimestamp")


class PointsList(msgspec.Struct, frozen=True):
    items: Sequence[Points]


class Number(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the two."""

    integer: int | None = msgspec.field(default=None, name="intValue")
    real: float | None = msgspec.field(default=None, name="floatValue")


class Bucket(msgspec.Struct, frozen=True, omit_defaults=True):
    """Only what was asked for is there."""

    timestamp: str
    count: int | None = None
    average: Number | None = None
    maximum: Number | None = None
    minimum: Number | None = None
    median: Number | None = None
    percentiles: Mapping[str, Number] | None = None


class Buckets(msgspec.Struct, frozen=True):
    buckets: Sequence[Bucket]
    size_ns: int = msgspec.field(name="bucketSize")


class BucketsList(msgspec.Struct, frozen=True):
    items: Sequence[Buckets]


class ExportedPoint(msgspec.Struct, frozen=True, omit_defaults=True):
    start: str
    end: str
    value: int | float
    labels: Mapping[str, str] | None = None


class ExportedSet(msgspec.Struct, frozen=True):
    metrics: Mapping[str, Sequence[ExportedPoint]]
    labels: Mapping[str, str]


class ExportedMetric(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    description: str
    type: str
    value_type: str
    units: str
    labels: Sequence["ExportedLabel"] | None = None


class ExportedLabel(msgspec.Struct, frozen=True):
    key: str
    description: str


class ExportSchema(msgspec.Struct, frozen=True):
    metrics: Sequence[ExportedMetric]
    common_labels: Sequence[ExportedLabel]
    pod_labels: Sequence[ExportedLabel]


class ObjectMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    created: str = msgspec.field(name="creationTimestamp")
    namespace: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Quantities of Kubernetes: `1499m`, `1536Mi`."""

    cpu: str
    memory: str


class ContainerUsage(msgspec.Struct, frozen=True):
    name: str
    usage: Usage


class NodeMetrics(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    timestamp: str
    window: str
    usage: Usage


class PodMetrics(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    timestamp: str
    window: str
    containers: Sequence[ContainerUsage]


class ListMeta(msgspec.Struct, frozen=True):
    pass


class NodeMetricsList(msgspec.Struct, frozen=True):
    metadata: ListMeta
    items: Sequence[NodeMetrics]


class PodMetricsList(msgspec.Struct, frozen=True):
    metadata: ListMeta
    items: Sequence[PodMetrics]
