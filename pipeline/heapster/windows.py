"""Metrics of Heapster's sets on its even grid of times, made from what a history reader tells.

A window is a minute, longer where roll-ups are read, and its time is its end, as Heapster's batches had it. In it a gauge or a
cumulative metric is the newest value known, a rate is the mean over the known part (`pipeline/buckets.py`). A sum adds what is
known of its parts in the same window, and is absent where nothing is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

from tidegauge.pipeline.buckets import Bucket, buckets
from tidegauge.pipeline.catalogue import METRICS as OURS
from tidegauge.pipeline.heapster import sets
from tidegauge.pipeline.heapster.metrics import (
    APPLICATION,
    BY_NAME,
    CUSTOM,
    RESOURCE,
    SUMMED,
    SUMMED_ON_NODES,
    Each,
    Fact,
    HeapsterMetric,
    Origin,
    Rate,
    Scalar,
    Share,
    Sum,
    Type,
)
from tidegauge.pipeline.heapster.sets import Role, SetKey, SetType
from tidegauge.pipeline.history import Bounds, ContainerKey, HistoryReader, Reading, RollupReader, StoredContainer
from tidegauge.pipeline.history_resolution import summed as summed_buckets
from tidegauge.pipeline.history_series import silence_ms_of
from tidegauge.pipeline.records import Container, Metric
from tidegauge.pipeline.series import split_series

WINDOW_MS = 60_000
Values: TypeAlias = dict[int, float]
"""Value by the window's time."""
Labels: TypeAlias = tuple[tuple[str, str], ...]
Labeled: TypeAlias = dict[Labels, Values]

_CATALOGUE: Mapping[str, Metric] = {m.name: m for m in OURS}
_ADDED_UP = ("restart_count",)
"""Counters that a pod has as the sum over its containers."""
_OF_POD_NETWORK = "network/"
_TAIL_MS = 86_400_000
"""Of roll-ups that are not made yet, samples are read for so long."""


class Span(NamedTuple):
    """Windows that end within [start, end]."""

    start_ms: int
    end_ms: int
    width_ms: int = WINDOW_MS

    def first_ms(self) -> int:
        """Beginning of the first window."""
        return -(-self.start_ms // self.width_ms) * self.width_ms - self.width_ms

    def last_ms(self) -> int:
        """End of the last one."""
        return self.end_ms // self.width_ms * self.width_ms


class Member(NamedTuple):
    """A container with what it is to Heapster."""

    container: StoredContainer
    role: Role
    key: SetKey


def members(found: Iterable[StoredContainer]) -> list[Member]:
    return [Member(c, sets.role(c), sets.key(c)) for c in found]


class Windows:
    """Answers about one store. Not shared by threads. What the reader raises goes through."""

    def __init__(self, reader: HistoryReader, found: Sequence[Member], bounds: Bounds) -> None:
        self._reader = reader
        self._members = found
        self._bounds = bounds

    def values(self, key: SetKey, metric: str, span: Span) -> Values:
        """Of a metric that is not labeled, of a set or a sum; empty for one that there is not."""
        return self.of_all(metric, span, lambda own: own == key, [key]).get(key, {})

    def of_all(
        self, metric: str, span: Span, wanted: Callable[[SetKey], bool], sums: Iterable[SetKey] = ()
    ) -> dict[SetKey, Values]:
        """By set, of those sets that are wanted, with whatever of `sums` are namespaces or the cluster."""
        about = BY_NAME.get(metric)
        if about is None or about.is_labeled:
            return {}
        out: dict[SetKey, Values] = {}
        for key in sums:
            if key.type in (SetType.NAMESPACE, SetType.CLUSTER) and metric in SUMMED:
                pods = self._pods(metric, span, partial(_is_within, of=key))
                out[key] = _added(pods.values())
        own = {m.key for m in self._members} | {_pod_of(m.key) for m in self._members if m.role is Role.CONTAINER}
        chosen = {key for key in own if wanted(key)}
        for kind in {key.type for key in chosen}:
            same = {key for key in chosen if key.type is kind}
            if kind is SetType.POD:
                out |= self._pods(metric, span, same.__contains__)
            elif kind is SetType.NODE:
                out |= self._nodes(about, span, same)
            else:
                own_members = [m for m in self._members if m.key in same]
                out |= self._own(about, span, own_members)
        return {key: values for key, values in out.items() if values}

    def labeled(self, key: SetKey, metric: str, span: Span) -> Labeled:
        """Of a labeled metric, or one of an application (`custom/NAME`), by its labels."""
        chosen = [m for m in self._members if m.key == key and m.role is not Role.SANDBOX]
        if metric.startswith(CUSTOM):
            return self._of_applications(metric.removeprefix(CUSTOM), span, chosen)
        about = BY_NAME.get(metric)
        if about is None or not about.is_labeled:
            return {}
        is_rate = isinstance(about.origin, Rate)
        each = BY_NAME[about.origin.of].origin if isinstance(about.origin, Rate) else about.origin
        assert isinstance(each, Each)
        out: Labeled = {}
        table, name = each.of(key.type is SetType.NODE)
        if table:
            for _, device, found in self._fetched(chosen, name, span):
                _put(out.setdefault(((RESOURCE, device),), {}), found, is_rate, 1.0)
        return out

    def applications(self, key: SetKey, span: Span) -> list[str]:
        """Names of the metrics that the application of a set offers, with their prefix."""
        chosen = [m for m in self._members if m.key == key]
        found = set()
        for name in APPLICATION:
            for _, text, _ in self._fetched(chosen, name, span):
                found.add(CUSTOM + split_series(text)[0])
        return sorted(found)

    # One kind of set each

    def _own(self, about: HeapsterMetric, span: Span, chosen: Sequence[Member]) -> dict[SetKey, Values]:
        """By the sets of these containers; of two lives of one set the later counts."""
        out: dict[SetKey, Values] = {}
        origin: Origin = about.origin
        if isinstance(origin, Fact):
            for member in chosen:
                out.setdefault(member.key, {}).update(_facts(member.container, about.name, span))
            if about.name == "uptime":
                nodes = [m for m in chosen if m.role is Role.NODE]
                for member, _, found in self._fetched(nodes, "uptime_seconds", span):
                    _put(out.setdefault(member.key, {}), found, False, 1000.0)
            return out
        factor = 1.0
        is_rate = isinstance(origin, Rate)
        if isinstance(origin, Rate):
            factor, origin = origin.factor, BY_NAME[origin.of].origin
        if isinstance(origin, Scalar):
            for member, _, found in self._fetched(chosen, origin.metric, span):
                _put(out.setdefault(member.key, {}), found, is_rate, factor)
        elif isinstance(origin, Sum):
            for member, found in self._sums(chosen, origin.metric, span):
                _put(out.setdefault(member.key, {}), found, is_rate, factor)
        return out

    def _pods(self, metric: str, span: Span, wanted: Callable[[SetKey], bool]) -> dict[SetKey, Values]:
        """Gauges and rates are sums over the pod's containers, its sandbox left out; of its own cgroup where none tells it.

        Counters are those of the pod's own cgroup. Its interfaces are counted at one of its cgroups, whichever that is.
        """
        about = BY_NAME[metric]
        parts = [m for m in self._members if m.key.type in (SetType.POD, SetType.POD_CONTAINER) and wanted(_pod_of(m.key))]
        found: dict[Role, dict[SetKey, list[Values]]] = {role: {} for role in Role}
        for role in (Role.POD, Role.SANDBOX, Role.CONTAINER):
            for key, values in self._own(about, span, [m for m in parts if m.role is role]).items():
                found[role].setdefault(_pod_of(key), []).append(values)
        out: dict[SetKey, Values] = {}
        for key in dict.fromkeys(_pod_of(m.key) for m in parts):
            own, sandbox, containers = (found[r].get(key, []) for r in (Role.POD, Role.SANDBOX, Role.CONTAINER))
            if metric.startswith(_OF_POD_NETWORK):
                out[key] = _added([*own, *sandbox, *containers])
            elif metric == "uptime":
                out[key] = _oldest(own or containers)
            elif about.type is Type.GAUGE or metric in _ADDED_UP:
                out[key] = _added(own) | _added(containers)
            else:
                out[key] = _added(own)
        return out

    def _nodes(self, about: HeapsterMetric, span: Span, keys: set[SetKey]) -> dict[SetKey, Values]:
        if isinstance(about.origin, Share):
            parts, wholes = (self.of_all(n, span, keys.__contains__) for n in (about.origin.part, about.origin.whole))
            return {
                key: {ts_ms: v / wholes[key][ts_ms] for ts_ms, v in part.items() if wholes.get(key, {}).get(ts_ms)}
                for key, part in parts.items()
            }
        if about.name in SUMMED_ON_NODES:
            out: dict[SetKey, Values] = {}
            for key in keys:
                pods = self._pods(about.name, span, partial(_is_on, of=key))
                out[key] = _added(pods.values())
            return out
        return self._own(about, span, [m for m in self._members if m.key in keys])

    def _of_applications(self, name: str, span: Span, chosen: Sequence[Member]) -> Labeled:
        out: Labeled = {}
        for metric in APPLICATION:
            for _, text, found in self._fetched(chosen, metric, span):
                own, labels = split_series(text)
                if own == name:
                    _put(out.setdefault(tuple(sorted(labels.items())), {}), found, False, 1.0)
        return out

    # Readings

    def _sums(self, chosen: Sequence[Member], name: str, span: Span) -> Iterable[tuple[Member, Sequence[Bucket]]]:
        parts: dict[int, dict[str, list[Bucket]]] = {}
        for member, instance, found in self._fetched(chosen, name, span):
            parts.setdefault(id(member), {}).setdefault(instance, []).extend(found)
        for member in chosen:
            own = list(parts.get(id(member), {}).values())
            if own:
                yield member, own[0] if len(own) == 1 else summed_buckets(own)

    def _fetched(self, chosen: Sequence[Member], name: str, span: Span) -> Iterable[tuple[Member, str, Sequence[Bucket]]]:
        """(container, instance, windows of it) of one of our metrics."""
        metric, first, last = _CATALOGUE[name], span.first_ms(), span.last_ms()
        if not chosen or first >= last:
            return
        containers = [m.container for m in chosen]
        rolled: Mapping[ContainerKey, Mapping[str, Sequence[Bucket]]] = {}
        made = first
        if isinstance(self._reader, RollupReader) and span.width_ms in self._reader.kept(metric):
            unsettled = self._reader.unsettled_ms(containers, span.width_ms, first, last)
            made = last if unsettled is None else max(first, unsettled // span.width_ms * span.width_ms)
            made = max(made, last - _TAIL_MS)
            rolled = self._reader.rolled(containers, metric, span.width_ms, first, made, self._bounds)
        readings: Mapping[ContainerKey, Mapping[str, Sequence[Reading]]] = {}
        gaps: Mapping[ContainerKey, Sequence[tuple[int, int]]] = {}
        if made < last:
            reach = 2 * max(silence_ms_of(c, metric) for c in containers)
            readings = self._reader.series(containers, metric, made - reach, last + WINDOW_MS, self._bounds)
            gaps = self._reader.gaps(containers, made - reach, last + WINDOW_MS)
        for member in chosen:
            c = member.container
            past, fresh = rolled.get(c.key, {}), readings.get(c.key, {})
            for instance in dict.fromkeys((*past, *fresh)):
                of_samples = buckets(
                    *(fresh.get(instance, ()), metric.kind, made, last, span.width_ms, gaps.get(c.key, ())),
                    silence_ms_of(c, metric),
                )
                yield member, instance, [*past.get(instance, ()), *of_samples]


def _put(into: Values, found: Iterable[Bucket], is_rate: bool, factor: float) -> None:
    for bucket in found:
        value = bucket.per_s if is_rate else bucket.last
        if value is not None:
            into[bucket.end_ms] = value * factor if factor != 1.0 else value


def _facts(c: StoredContainer, name: str, span: Span) -> Values:
    """What is known of the container itself, in each window in which it lived."""
    out: Values = {}
    record = c.ref if isinstance(c.ref, Container) else None
    begin = c.created_ms or c.first_ms
    end = span.end_ms if c.ended_ms is None else c.ended_ms
    for ts_ms in range(span.first_ms() + span.width_ms, span.last_ms() + 1, span.width_ms):
        if not begin <= ts_ms <= end:
            continue
        if record is not None:
            found = dict(sets.facts(record, ts_ms))
            if name in found:
                out[ts_ms] = found[name]
        elif name == "uptime" and c.path != "/":
            out[ts_ms] = ts_ms - begin
    return out


def _added(parts: Iterable[Values]) -> Values:
    out: Values = {}
    for part in parts:
        for ts_ms, value in part.items():
            out[ts_ms] = out.get(ts_ms, 0) + value
    return out


def _oldest(parts: Iterable[Values]) -> Values:
    out: Values = {}
    for part in parts:
        for ts_ms, value in part.items():
            out[ts_ms] = max(out.get(ts_ms, 0), value)
    return out


def _pod_of(key: SetKey) -> SetKey:
    """The pod of a container of a pod; else the key itself."""
    return SetKey(SetType.POD, key.node, key.namespace, key.pod) if key.type is SetType.POD_CONTAINER else key


def _is_within(pod: SetKey, of: SetKey) -> bool:
    """Whether a pod counts for a namespace, or the cluster."""
    return of.type is SetType.CLUSTER or pod.namespace == of.namespace


def _is_on(pod: SetKey, of: SetKey) -> bool:
    return pod.node == of.node
