"""The memory store as a history reader: living containers, and of them the samples that are held. No I/O."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from tidegauge.pipeline.catalogue import METRICS
from tidegauge.pipeline.history import Bounds, ContainerKey, Reading, Span, StoredContainer
from tidegauge.pipeline.latest import KeepsSamples, Latest
from tidegauge.pipeline.rates import max_silence_ms
from tidegauge.pipeline.records import Container, Metric, Sample, Schema


class MemoryReader:
    """A HistoryReader. Made for one request: what it has looked up once stays as it was. Knows no gap records."""

    def __init__(self, store: KeepsSamples) -> None:
        self._store = store
        self.latest: dict[ContainerKey, tuple[Container, Latest | None]] = {}
        for c, newest in store.latest():
            self.latest[ContainerKey(c.source, c.instance, c.epoch)] = (c, newest)
        self._samples: dict[ContainerKey, Sequence[tuple[Sample, Schema]]] = {}

    def metrics(self) -> Sequence[Metric]:
        return METRICS

    def oldest_ms(self) -> int | None:
        found = [c.first_ms for c in self.containers(0, 1 << 62)]
        return min(found, default=None)

    def containers(self, since_ms: int, until_ms: int) -> Sequence[StoredContainer]:
        """`ref` is the container's record."""
        out = []
        for key, (c, newest) in self.latest.items():
            if newest is not None and newest.ts_ms >= since_ms and c.created_ms <= until_ms:
                out.append(_stored(key, c, newest.ts_ms))
        return sorted(out, key=lambda c: (c.host, c.path, c.first_ms, c.key))

    def series(
        self, containers: Sequence[StoredContainer], metric: Metric, since_ms: int, until_ms: int, bounds: Bounds
    ) -> Mapping[ContainerKey, Mapping[str, Sequence[Reading]]]:
        out: dict[ContainerKey, Mapping[str, Sequence[Reading]]] = {}
        rows = 0
        for c in containers:
            held = self._held(c)
            low = bisect_left(held, since_ms, key=_time)
            high = bisect_right(held, until_ms, key=_time)
            rows += high - low
            bounds.check(rows)
            found = _readings(held[low:high], metric)
            if found:
                out[c.key] = found
        return out

    def gaps(
        self, containers: Sequence[StoredContainer], since_ms: int, until_ms: int
    ) -> Mapping[ContainerKey, Sequence[Span]]:
        return {}

    def _held(self, c: StoredContainer) -> Sequence[tuple[Sample, Schema]]:
        if c.key not in self._samples:
            record, _ = self.latest[c.key]
            found = self._store.samples(c.key.instance)
            self._samples[c.key] = [pair for pair in found if pair[0].container == record.number]
        return self._samples[c.key]


def _time(pair: tuple[Sample, Schema]) -> int:
    return pair[0].ts_ms


def _stored(key: ContainerKey, c: Container, newest_ms: int) -> StoredContainer:
    same = ("host", "path", "name", "aliases", "namespace", "image", "labels", "runtime", "container_id", "created_ms")
    return StoredContainer(
        key=key,
        **{name: getattr(c, name) for name in (*same, "pod", "pod_namespace", "pod_uid")},
        first_ms=c.created_ms,
        last_ms=newest_ms,
        silence_ms=max_silence_ms(c),
        ref=c,
    )


def _readings(held: Sequence[tuple[Sample, Schema]], metric: Metric) -> dict[str, list[Reading]]:
    places: dict[int, tuple[int, int] | None] = {}
    out: dict[str, list[Reading]] = {}
    for sample, schema in held:
        if schema.id not in places:
            places[schema.id] = _place(schema, metric)
        if (place := places[schema.id]) is None:
            continue
        table, column = place
        if table < 0:
            value = sample.values[column]
            if value is not None or metric.table == "sample":
                out.setdefault("", []).append((sample.ts_ms, sample.is_closing, value))
            continue
        for row in sample.tables[table] or () if table < len(sample.tables) else ():
            if isinstance(cell := row[column], int | float):
                out.setdefault(str(row[0]), []).append((sample.ts_ms, sample.is_closing, cell))
    return out


def _place(schema: Schema, metric: Metric) -> tuple[int, int] | None:
    """(-1, place among the values), or (table, column of its rows)."""
    for i, name in enumerate(schema.names):
        if name == metric.name:
            return -1, i
    for i, table in enumerate(schema.tables):
        if table.name == metric.table:
            return next(((i, at) for at, m in enumerate(table.metrics, 1) if m.name == metric.name), None)
    return None
