"""Records with everything that history must mind, a reader over plain records, and an oracle that knows no buckets.

The oracle goes second by second: all times of the records are whole seconds, so what is known of each second is found by
looking for the readings around it, and statistics are over lists of seconds.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

from tidegauge.pipeline.buckets import Bucket, buckets
from tidegauge.pipeline.catalogue import METRICS, Catalogue
from tidegauge.pipeline.history import Bounds, ContainerKey, Kept, Reading, Span, StoredContainer
from tidegauge.pipeline.records import Batch, Container, End, Gap, Kind, Metric, Record, Sample, Schema, TableRows, Value
from tidegauge.pipeline.testing import SOURCE, START_MS, make_container

HOUR_S = 3600
BEGIN_MS = START_MS - START_MS % 3_600_000
"""A full hour."""
CATALOGUE = Catalogue()
_NAMES = ("cpu_usage_ns", "memory_working_set_bytes", "memory_failures", "pids_current", "load1", "process_count")
OTHER_SOURCE = "b2f6a9f0-0000-4000-8000-000000000001"


def _schema() -> Schema:
    return CATALOGUE.schema(_NAMES, ("network", "filesystem"))


def records() -> list[Record]:
    """Two hosts, three hours: idle and busy containers, gaps, epochs, a reset, ends; values and interfaces that come and go."""
    rnd = random.Random(1)
    schema = _schema()
    out: list[Record] = [msgspec.structs.replace(schema, row=1)]
    row = 2
    samples: list[Sample] = []
    containers: list[Container] = []

    def container(number: int, path: str, **fields: object) -> Container:
        defaults = {"name": path.rpartition("/")[2] or None, "row": row + number, "valid_from_ms": BEGIN_MS - 1000}
        made = make_container(number, path, **(defaults | fields))
        containers.append(made)
        return made

    def sample(number: int, at_s: int, cpu: Value, memory: Value, **more: object) -> None:
        values: dict[str, object] = {"cpu_usage_ns": cpu, "memory_working_set_bytes": memory} | more
        tables = values.pop("tables", ())
        is_closing = bool(values.pop("is_closing", False))
        order = tuple(values.get(n) for n in _NAMES)
        samples.append(Sample(number, BEGIN_MS + 1000 * at_s, schema.id, order, tables, is_closing))  # type: ignore[arg-type]

    def rows(at: int, *names: str) -> tuple[TableRows | None, ...]:
        last = None if at % 120 == 0 else at
        network = tuple((name, at * 1000 + i, *(at + i,) * 6, last) for i, name in enumerate(names))
        return (network, None)

    container(1, "/", name=None, labels={}, namespace=None, image=None)
    container(2, "/docker/a", namespace="docker", labels={"app": "web", "tier": "front"})
    container(3, "/docker/b", namespace="docker", labels={"app": "web"}, image="db:1")
    container(3, "/docker/b", namespace="docker", labels={"app": "web"}, image="db:2", valid_from_ms=BEGIN_MS + 7_200_000)
    container(4, "/docker/c", namespace="docker", labels={"app": "job"})
    container(5, "/docker/d", namespace="docker", epoch=0)
    container(6, "/docker/d", namespace="docker", epoch=1)
    container(7, "/docker/e", instance="00000000000000e1")
    container(8, "/docker/e", instance="00000000000000e2")
    container(9, "/kubepods/p", namespace="pods", pod="p", pod_namespace="shop", name=None)
    container(10, "/kubepods/p/c", namespace="k8s.io", pod="p", pod_namespace="shop")
    container(11, "/docker/f", host="host-b", source=OTHER_SOURCE, namespace="docker", labels={"app": "web"})

    total = 0
    for at in range(0, 3 * HOUR_S, 30):  # the host: every half minute, always, filesystems once a minute
        total += rnd.randrange(60 * 10**9)
        tables: tuple[TableRows | None, ...] = rows(at, "eth0")
        if at % 60 == 0:
            tables = (tables[0], (("/dev/sda1", 100, at, 50, 5, 4), ("/dev/sdb1", 200, 2 * at, 60, 6, 5)))
        sample(1, at, total, 10**9 + at, memory_failures=at // 1000, load1=at / 7, process_count=None, tables=tables)
    total = 0
    for at in range(5, 3 * HOUR_S, 10):  # busy; interfaces come and go; some values are unknown for a while
        total += rnd.randrange(10**10)
        names = ("eth0", "eth1") if not 4000 <= at < 6000 else ("eth0",)
        memory = None if 2000 <= at < 2300 else 10**8 + rnd.randrange(10**7)
        cpu = None if 8000 <= at < 8060 else total
        sample(2, at, cpu, memory, pids_current=rnd.randrange(50), tables=rows(at, *names))
    total, at = 7 * 10**9, 0
    while at < 3 * HOUR_S:  # idle most of the time: closing samples before it does something
        sample(3, at, total, 5 * 10**7 + at, memory_failures=total % 13)
        at += 60
        if rnd.random() < 0.3:
            sample(3, at, total, None, is_closing=True)
            at += 1
            total += rnd.randrange(10**9)
    total = 0
    for at in range(3, 7000, 20):  # a counter that begins anew, twice; it ends
        total = 0 if at in (2003, 4503) else total + rnd.randrange(10**9)
        sample(4, at, total, 2 * 10**7, process_count=at % 7 if at % 180 == 3 else None)
    total = 0
    for number, span in ((5, range(0, 5000, 15)), (6, range(4900, 3 * HOUR_S, 15))):  # the clock stepped back by 85 s
        for at in span:
            total += rnd.randrange(10**9)
            sample(number, at, total, 3 * 10**7 + number)
    for number, span in ((7, range(100, 3000, 10)), (8, range(3600, 9000, 10))):  # restarted under the same path
        total = 0
        for at in span:
            total += rnd.randrange(10**8)
            sample(number, at, total, number * 10**7)
    outer = inner = 0
    for at in range(0, 3 * HOUR_S, 20):  # a pod and its container, of which the pod's values have a share
        add = rnd.randrange(10**9)
        inner += add
        outer += add + 10**6
        sample(9, at, outer, 8 * 10**7)
        sample(10, at, inner, 7 * 10**7)
    total = 0
    for at in range(0, 3 * HOUR_S, 30):  # another host, which says nothing for a while
        total += rnd.randrange(10**10)
        if not 5000 < at < 5900:
            sample(11, at, total, 4 * 10**7 + at)

    out += containers
    row += len(containers)
    samples.sort(key=lambda s: (s.ts_ms, s.container))
    by_number = {c.number: c for c in reversed(containers)}
    for first in range(0, len(samples), 200):
        part = samples[first : first + 200]
        out.append(Batch(part, range(row, row + len(part)), {schema.id: schema}, by_number))
        row += len(part)
    for gap in (
        Gap(SOURCE, BEGIN_MS + 1_234_000, BEGIN_MS + 1_300_000, "agent_down"),
        Gap(SOURCE, BEGIN_MS + 6_500_000, BEGIN_MS + 6_502_000, "stall", container=2),
        Gap(OTHER_SOURCE, BEGIN_MS + 100_000, BEGIN_MS + 130_000, "overflow"),
    ):
        out.append(msgspec.structs.replace(gap, row=row))
        row += 1
    for number, at in ((4, 7003), (7, 3005), (8, 9005)):
        out.append(End(number, BEGIN_MS + 1000 * at, row))
        row += 1
    return out


END_MS = BEGIN_MS + 3 * HOUR_S * 1000


class PureReader:
    """A HistoryReader over plain records: no store, no SQL."""

    def __init__(self, given: Iterable[Record]) -> None:
        self._containers: dict[int, list[Container]] = {}
        self._ended: dict[int, int] = {}
        self._gaps: list[Gap] = []
        self._samples: dict[int, list[Sample]] = {}
        self._schemas: dict[int, Schema] = {}
        for record in given:
            if isinstance(record, Container):
                self._containers.setdefault(record.number, []).append(record)
            elif isinstance(record, End):
                self._ended[record.container] = record.ts_ms
            elif isinstance(record, Gap):
                self._gaps.append(record)
            elif isinstance(record, Schema):
                self._schemas[record.id] = record
            elif isinstance(record, Batch):
                for s in record.samples:
                    self._samples.setdefault(s.container, []).append(s)

    def metrics(self) -> Sequence[Metric]:
        return METRICS

    def oldest_ms(self) -> int | None:
        return min((s.ts_ms for found in self._samples.values() for s in found), default=None)

    def containers(self, since_ms: int, until_ms: int) -> Sequence[StoredContainer]:
        found = []
        for number, samples in self._samples.items():
            its = self._containers[number]
            c = max((c for c in its if c.valid_from_ms <= until_ms), key=lambda c: c.valid_from_ms, default=its[0])
            first, last = samples[0].ts_ms, samples[-1].ts_ms
            if first <= until_ms and last >= since_ms:
                found.append(
                    StoredContainer(
                        key=ContainerKey(c.source, c.instance, c.epoch),
                        host=c.host,
                        path=c.path,
                        name=c.name,
                        aliases=c.aliases,
                        namespace=c.namespace,
                        image=c.image,
                        labels=c.labels,
                        pod=c.pod,
                        pod_namespace=c.pod_namespace,
                        created_ms=c.created_ms,
                        first_ms=first,
                        last_ms=last,
                        ended_ms=self._ended.get(number),
                        silence_ms=round(1000 * (c.max_interval_s + c.base_interval_s)),
                        ref=number,
                    )
                )
        return sorted(found, key=lambda c: (c.host, c.path, c.first_ms, c.key))

    def series(
        self, containers: Sequence[StoredContainer], metric: Metric, since_ms: int, until_ms: int, bounds: Bounds
    ) -> Mapping[ContainerKey, Mapping[str, Sequence[Reading]]]:
        out: dict[ContainerKey, dict[str, list[Reading]]] = {}
        count = 0
        for c in containers:
            own = out.setdefault(c.key, {})
            for s in self._samples[c.ref]:
                if since_ms <= s.ts_ms <= until_ms:
                    for instance, value in self._values(s, metric):
                        own.setdefault(instance, []).append((s.ts_ms, s.is_closing, value))
                        count += 1
            bounds.check(count)
        return out

    def _values(self, s: Sample, metric: Metric) -> Iterator[tuple[str, Value]]:
        schema = self._schemas[s.schema]
        if metric.table.startswith("sample"):
            value = s.values[schema.names.index(metric.name)] if metric.name in schema.names else None
            if value is not None or metric.table == "sample":
                yield "", value
            return
        for table, rows in zip(schema.tables, s.tables, strict=False):
            if table.name == metric.table and rows is not None:
                column = 1 + [m.name for m in table.metrics].index(metric.name)
                for row in rows:
                    if row[column] is not None:
                        yield str(row[0]), row[column]  # type: ignore[misc]

    def gaps(
        self, containers: Sequence[StoredContainer], since_ms: int, until_ms: int
    ) -> Mapping[ContainerKey, Sequence[Span]]:
        near = [g for g in self._gaps if g.from_ms <= until_ms and g.to_ms >= since_ms]
        return {
            c.key: sorted(
                (g.from_ms, g.to_ms) for g in near if g.source == c.key.source and (g.container is None or g.container == c.ref)
            )
            for c in containers
        }


class RolledReader(PureReader):
    """The same with roll-ups of `sample` and `network`, made of all readings; those from `settled_ms` on are to be made yet.

    Samples before `raw_ms` are held no more.
    """

    def __init__(self, given: Iterable[Record], settled_ms: int, raw_ms: int = 0) -> None:
        super().__init__(given)
        self._settled_ms = settled_ms
        self._raw_ms = raw_ms

    def oldest_ms(self) -> int | None:
        found = super().oldest_ms()
        return found if found is None else max(found, self._raw_ms)

    def series(
        self, containers: Sequence[StoredContainer], metric: Metric, since_ms: int, until_ms: int, bounds: Bounds
    ) -> Mapping[ContainerKey, Mapping[str, Sequence[Reading]]]:
        return super().series(containers, metric, max(since_ms, self._raw_ms), until_ms, bounds)

    def kept(self, metric: Metric) -> Mapping[int, Kept]:
        if metric.table not in ("sample", "network"):
            return {}
        oldest, has_sketch = super().oldest_ms(), metric.name != "memory_failures"
        return {} if oldest is None else {w: Kept(oldest // w * w, has_sketch) for w in (300_000, 3_600_000)}

    def unsettled_ms(self, containers: Sequence[StoredContainer], width_ms: int, since_ms: int, until_ms: int) -> int | None:
        first = max(self._settled_ms // width_ms * width_ms, since_ms)
        return first if first < until_ms else None

    def rolled(
        self,
        containers: Sequence[StoredContainer],
        metric: Metric,
        width_ms: int,
        since_ms: int,
        until_ms: int,
        bounds: Bounds,
        *,
        with_sketch: bool = False,
    ) -> Mapping[ContainerKey, Mapping[str, Sequence[Bucket]]]:
        gaps = self.gaps(containers, 0, 10**15)
        read = super().series(containers, metric, 0, 10**15, Bounds(10**9, math.inf))
        return {
            c.key: {
                name: buckets(
                    *(readings, metric.kind, since_ms, until_ms, width_ms, gaps[c.key], c.silence_ms), with_sketch=with_sketch
                )
                for name, readings in read[c.key].items()
            }
            for c in containers
        }


class Second(NamedTuple):
    """What is known of one second of one container. None: unknown."""

    value: float | None
    is_alive: bool


class Oracle:
    """Answers by going through the seconds of `records`."""

    def __init__(self, given: Sequence[Record]) -> None:
        self._reader = PureReader(given)
        self._known: dict[tuple[ContainerKey, str, str | None], list[Second]] = {}

    def seconds(self, c: StoredContainer, metric: Metric, instance: str | None, from_s: int, to_s: int) -> list[Second]:
        """Of each second since BEGIN_MS in the span, which is of the records' three hours."""
        key = (c.key, metric.name, instance)
        if key not in self._known:
            self._known[key] = self._seconds(c, metric, instance)
        return self._known[key][from_s:to_s]

    def _seconds(self, c: StoredContainer, metric: Metric, instance: str | None) -> list[Second]:
        all_of_it = self._reader.series([c], metric, 0, 10**15, Bounds(10**9, math.inf))[c.key]
        parts = {k: v for k, v in all_of_it.items() if instance is None or fnmatchcase(k, instance)}
        at: dict[int, dict[str, Reading]] = {}
        for name, readings in parts.items():
            for r in readings:
                at.setdefault(r[0], {})[name] = r
        gaps = self._reader.gaps([c], 0, 10**15)[c.key]
        times = sorted(at)
        silence_ms = c.silence_ms + (0 if metric.table in ("sample", "network", "filesystem") else 600_000)
        carried: dict[int, float | None] = {}
        previous: int | None = None
        for t in times:
            known = [r[2] for r in at[t].values() if r[2] is not None]
            carried[t] = sum(known) if known else None
            if not known and all(r[1] for r in at[t].values()) and previous is not None:
                is_near = t - previous <= silence_ms and not any(a < t and previous < b for a, b in gaps)
                carried[t] = carried[previous] if is_near else None
            previous = t
        out = []
        for second in range(3 * HOUR_S):
            now = BEGIN_MS + 1000 * second
            place = bisect_right(times, now)
            value: float | None = None
            if 0 < place < len(times):
                a, b = times[place - 1], times[place]
                is_known = b - a <= silence_ms and not any(low < b and a < high for low, high in gaps)
                x, y = carried[a], carried[b]
                if is_known and x is not None:
                    if metric.kind is Kind.GAUGE:
                        value = x
                    elif y is not None and y >= x and (len(parts) == 1 or set(at[a]) == set(at[b])):
                        value = (y - x) * 1000 / (b - a)
            end_ms = END_MS if c.ended_ms is None else c.ended_ms
            out.append(Second(value, c.first_ms <= now < end_ms))
        return out


def nearest_rank(values: Sequence[float], percent: float) -> float | None:
    """By the book: of N ordered values the one with rank ceil(percent / 100 * N)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(percent * len(ordered) / 100)) - 1] if ordered else None
