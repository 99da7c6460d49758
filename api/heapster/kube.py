"""The early metrics API of Kubernetes, `/apis/metrics.k8s.io/v1alpha1`: CPU and memory of nodes and pods in the last minute."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from tidegauge.api.heapster.memory import MemoryReader
from tidegauge.api.heapster.model import BadRequest, NoSuchPath
from tidegauge.api.heapster.shapes import (
    ContainerUsage,
    ListMeta,
    NodeMetrics,
    NodeMetricsList,
    ObjectMeta,
    PodMetrics,
    PodMetricsList,
    Usage,
    time_text,
)
from tidegauge.pipeline.heapster import sets
from tidegauge.pipeline.heapster.sets import Role, SetKey, SetType
from tidegauge.pipeline.heapster.windows import WINDOW_MS, Member, Span, Values, Windows, members
from tidegauge.pipeline.history import Bounds

_LOOK_MS = 3 * WINDOW_MS
_WINDOW = "1m0s"
_HOSTNAME = "kubernetes.io/hostname"
"""The one label of a node that is known here."""
_Takes: TypeAlias = Callable[[Mapping[str, str]], bool]
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi")


def answer(store: MemoryReader, parts: Sequence[str], selector: str, bounds: Bounds, now_ms: int) -> object:
    """What stands at a path below the API's own. Raises NoSuchPath for an object that there is not, BadRequest."""
    takes = _selector(selector)
    match list(parts):
        case ["nodes"]:
            return NodeMetricsList(ListMeta(), list(_nodes(store, bounds, now_ms, takes)))
        case ["nodes", name]:
            return _only(n for n in _nodes(store, bounds, now_ms, takes) if n.metadata.name == name)
        case ["pods"]:
            return PodMetricsList(ListMeta(), list(_pods(store, bounds, now_ms, takes, None)))
        case ["namespaces", namespace, "pods"]:
            return PodMetricsList(ListMeta(), list(_pods(store, bounds, now_ms, takes, namespace)))
        case ["namespaces", namespace, "pods", name]:
            return _only(p for p in _pods(store, bounds, now_ms, takes, namespace) if p.metadata.name == name)
    raise NoSuchPath


def _only(found: Iterator[object]) -> object:
    one = next(found, None)
    if one is None:
        raise NoSuchPath
    return one


def _usages(store: MemoryReader, chosen: Sequence[Member], bounds: Bounds, now_ms: int) -> dict[SetKey, tuple[int, Usage]]:
    """Time and usage of each set in its newest window that has both."""
    windows = Windows(store, chosen, bounds)
    span = Span(now_ms - _LOOK_MS, now_ms)
    keys = {m.key for m in chosen}
    cpu = windows.of_all("cpu/usage_rate", span, keys.__contains__)
    memory = windows.of_all("memory/working_set", span, keys.__contains__)
    out = {}
    for key in keys:
        both: Values = {ts_ms: v for ts_ms, v in cpu.get(key, {}).items() if ts_ms in memory.get(key, {})}
        if both:
            ts_ms = max(both)
            out[key] = (ts_ms, Usage(f"{round(both[ts_ms])}m", _quantity(round(memory[key][ts_ms]))))
    return out


def _nodes(store: MemoryReader, bounds: Bounds, now_ms: int, takes: _Takes) -> Iterator[NodeMetrics]:
    chosen = [m for m in _members(store, now_ms) if m.role is Role.NODE and takes({_HOSTNAME: m.container.host})]
    for key, (ts_ms, usage) in sorted(_usages(store, chosen, bounds, now_ms).items()):
        yield NodeMetrics(ObjectMeta(key.node, time_text(now_ms)), time_text(ts_ms), _WINDOW, usage)


def _pods(store: MemoryReader, bounds: Bounds, now_ms: int, takes: _Takes, namespace: str | None) -> Iterator[PodMetrics]:
    found_members = [m for m in _members(store, now_ms) if m.key.pod and namespace in (None, m.key.namespace)]
    labels: dict[tuple[str, str], dict[str, str]] = {}
    for m in found_members:  # runtimes put a pod's labels on its sandbox, or on its containers
        labels.setdefault((m.key.namespace, m.key.pod), {}).update(sets.user_labels(m.container))
    chosen = [m for m in found_members if m.role is Role.CONTAINER and takes(labels[m.key.namespace, m.key.pod])]
    by_pod: dict[tuple[str, str], list[tuple[SetKey, int, Usage]]] = {}
    for key, (ts_ms, usage) in sorted(_usages(store, chosen, bounds, now_ms).items()):
        by_pod.setdefault((key.namespace, key.pod), []).append((key, ts_ms, usage))
    for (own, pod), found in by_pod.items():
        newest = max(ts_ms for _, ts_ms, _ in found)
        containers = [ContainerUsage(key.container, usage) for key, _, usage in found]
        yield PodMetrics(ObjectMeta(pod, time_text(now_ms), own), time_text(newest), _WINDOW, containers)


def _members(store: MemoryReader, now_ms: int) -> list[Member]:
    return [m for m in members(store.containers(now_ms - _LOOK_MS, now_ms)) if m.key.type is not SetType.FREE]


def _quantity(value: int) -> str:
    """A quantity of Kubernetes with a binary suffix: the largest that divides it."""
    at = 0
    while value and value % 1024 == 0 and at + 1 < len(_BINARY):
        value //= 1024
        at += 1
    return f"{value}{_BINARY[at]}"


_REQUIREMENT = re.compile(
    r"\s*+(?:(?P<set>[\w./-]++)\s++(?P<op>in|notin)\s*+\((?P<values>[\w.,\s-]*+)\)"
    r"|(?P<key>[\w./-]++)\s*+(?P<sign>==|=|!=)\s*+(?P<value>[\w.-]*+)|(?P<absent>!?+)\s*+(?P<exists>[\w./-]++))\s*+(?:,|$)"
)
"""Nothing is tried twice (`*+`): of a long text of blanks, that would take minutes."""


def _selector(text: str) -> _Takes:
    """What Kubernetes takes: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`, with commas between. BadRequest."""
    rules: list[tuple[str, frozenset[str] | None, bool]] = []
    at = 0
    while at < len(text):
        found = _REQUIREMENT.match(text, at)
        if found is None or found.end() == at:
            raise BadRequest(f"labelSelector: expected requirements such as app=web, got {text[at : at + 100]!r}")
        at = found.end()
        if found["set"]:
            wanted = frozenset(v.strip() for v in found["values"].split(","))
            rules.append((found["set"], wanted, found["op"] == "in"))
        elif found["key"]:
            rules.append((found["key"], frozenset((found["value"],)), found["sign"] != "!="))
        else:
            rules.append((found["exists"], None, not found["absent"]))

    def takes(labels: Mapping[str, str]) -> bool:
        for key, wanted, is_in in rules:
            fits = key in labels if wanted is None else labels.get(key) in wanted
            if fits is not is_in:
                return False
        return True

    return takes
