"""What stands where, for `/openapi.json`: (path, type of the answer, names of the query's parameters, statuses)."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tidegauge.api.heapster import shapes
from tidegauge.api.heapster.routes import EXPORT, KUBE, MODEL, PAST, SCHEMA

OBJECTS = {
    "": "the cluster",
    "nodes/{node}/": "a node",
    "nodes/{node}/freecontainers/{container}/": "a container of no pod",
    "namespaces/{namespace}/": "a namespace",
    "namespaces/{namespace}/pods/{pod}/": "a pod",
    "namespaces/{namespace}/pods/{pod}/containers/{container}/": "a container of a pod",
}
BY_UID = {"pod-id/{uid}/": "a pod", "pod-id/{uid}/containers/{container}/": "a container of a pod"}
LISTS = {"namespaces/{namespace}/pod-list/{pods}/": "pods, with commas between"}
UID_LISTS = {"pod-id-list/{uids}/": "pods by uid, with commas between"}
LISTED = {
    "nodes": "nodes",
    "nodes/{node}/freecontainers": "containers of no pod",
    "namespaces": "namespaces",
    "namespaces/{namespace}/pods": "pods",
    "namespaces/{namespace}/pods/{pod}/containers": "containers of a pod",
}
_SERIES = ("start", "end", "labels")
_TIMED = (400, 404)


class Described(NamedTuple):
    path: str
    route: str
    summary: str
    shape: Any
    query: tuple[str, ...] = ()
    statuses: tuple[int, ...] = _TIMED


def operations() -> Iterator[Described]:
    for root in (MODEL, PAST):
        is_past = root == PAST
        route = root + "{rest:path}"
        for path, what in LISTED.items():
            yield Described(root + path, route, f"Heapster's names of {what}", list[str], statuses=(400, 404))
        for path, what in (OBJECTS | (BY_UID if is_past else {})).items():
            yield Described(f"{root}{path}metrics", route, f"Heapster's metrics of {what}", list[str])
            yield Described(f"{root}{path}metrics/{{metric}}", route, f"one metric of {what}", shapes.Points, _SERIES)
        for path, what in (LISTS | (UID_LISTS if is_past else {})).items():
            yield Described(f"{root}{path}metrics/{{metric}}", route, f"one metric of {what}", shapes.PointsList, _SERIES)
        if not is_past:
            yield Described(f"{root}debug/allkeys", route, "every set of Heapster's", list[str])
            continue
        for path, what in (OBJECTS | BY_UID | LISTS | UID_LISTS).items():
            shape: Any = shapes.BucketsList if path in LISTS | UID_LISTS else shapes.Buckets
            yield Described(
                f"{root}{path}metrics-aggregated/{{aggregations}}/{{metric}}",
                route,
                f"one metric of {what}, aggregated",
                shape,
                (*_SERIES, "bucket"),
            )
    yield Described(EXPORT, EXPORT, "the newest values of every set of Heapster's", list[shapes.ExportedSet], statuses=())
    yield Described(SCHEMA, SCHEMA, "what the export may hold", shapes.ExportSchema, statuses=())
    for path, answered, what in (
        ("nodes", shapes.NodeMetricsList, "nodes"),
        ("nodes/{node}", shapes.NodeMetrics, "a node"),
        ("pods", shapes.PodMetricsList, "pods"),
        ("namespaces/{namespace}/pods", shapes.PodMetricsList, "pods of a namespace"),
        ("namespaces/{namespace}/pods/{pod}", shapes.PodMetrics, "a pod"),
    ):
        yield Described(KUBE + path, KUBE + "{rest:path}", f"CPU and memory of {what}", answered, ("labelSelector",))
