"""Asks InfluxDB about the past: what the sink of the layout `native` has written there, as a HistoryReader. No privileges.

A sample is seen by the values that nearly every one has (`WITNESSES`): one that has none of them, nor the metric that is asked
for, is not. Metadata are those of `container_info`; where retention has deleted these, those of the lines' tags, without a
source. What plug-ins have stored bears no kind there: a name that ends in `_total` is taken for a counter.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, METRICS, SCALAR_TABLES
from tidegauge.pipeline.errors import RetryableError, SinkError
from tidegauge.pipeline.history import Bounds, ContainerKey, Reading, Span, StoredContainer, StoreError
from tidegauge.pipeline.records import Kind, Metric, TableSchema, Value
from tidegauge.sinks.influxdb_downsampling import is_made
from tidegauge.sinks.influxdb_http import StoredRow
from tidegauge.sinks.line_protocol import instance_tag

WITNESSES = ("cpu_usage_ns", "memory_usage_bytes", "pids_current")
SAMPLES = ("container", "host")
"""Measurements with one line a sample."""

_BUILT_IN = {m.name: m for m in METRICS}
_NOT_METRICS = frozenset({"is_closing"})
_DEFAULT_SILENCE_MS = 61_000
_MANY = 200
"""Containers in one question to the store."""


class Lines(NamedTuple):
    """Which lines are wanted: fields of measurements, of these instances, within both times."""

    measurements: Sequence[str]
    fields: Sequence[str]
    instances: Sequence[str]
    tag: str
    """Tag key that tells rows of one container apart; empty: there is none."""
    since_ms: int
    until_ms: int


class Asker(Protocol):
    """One dialect. A row may hold some of a line's fields. Any thread. Everything raises SinkError."""

    def fields(self, measurements: Sequence[str]) -> Iterator[str]:
        """Names of fields, some perhaps twice."""
        ...

    def edges(self, is_newest: bool) -> Iterator[StoredRow]:
        """The oldest or the newest line of each series of samples, with all tags."""
        ...

    def infos(self, until_ms: int) -> Iterator[StoredRow]:
        """The newest `container_info` of each container until then, with all tags."""
        ...

    def ends(self) -> Iterator[StoredRow]:
        """Every `container_end`."""
        ...

    def gaps(self, since_ms: int, until_ms: int) -> Iterator[StoredRow]:
        """The field `to_ms` of the gaps that touch the span."""
        ...

    def lines(self, wanted: Lines, deadline_s: float) -> Iterator[StoredRow]:
        """With the tags `instance`, `epoch` and the one wanted. Streamed; no wait for the store is longer than until then."""
        ...

    def close(self) -> None: ...


class _Ref(NamedTuple):
    """What a container's gaps are found by."""

    number: str


class InfluxdbHistory:
    """A HistoryReader. The store is connected to at the first question."""

    def __init__(self, connect: Callable[[], Asker]) -> None:
        self._connect = connect
        self._asker: Asker | None = None
        self._lock = threading.Lock()

    def metrics(self) -> Sequence[Metric]:
        held = set(self._rows(lambda a: a.fields((*SAMPLES, "custom"))))
        names = sorted(n for n in held - _BUILT_IN.keys() - _NOT_METRICS if not is_made(n, held))
        kinds = {name: Kind.COUNTER if name.endswith("_total") else Kind.GAUGE for name in names}
        return [*METRICS, *(Metric(name, kinds[name], "number", "custom", "") for name in names)]

    def oldest_ms(self) -> int | None:
        return min((row.ts_ms for row in self._rows(lambda a: a.edges(False))), default=None)

    def containers(self, since_ms: int, until_ms: int) -> Sequence[StoredContainer]:
        first: dict[tuple[str, int], int] = {}
        newest: dict[tuple[str, int], StoredRow] = {}
        for row in self._rows(lambda a: a.edges(False)):
            first[_id(row)] = min(row.ts_ms, first.get(_id(row), row.ts_ms))
        for row in self._rows(lambda a: a.edges(True)):
            other = newest.get(_id(row))
            if other is None or other.ts_ms <= row.ts_ms:
                newest[_id(row)] = row
        touched = {id_: row for id_, row in newest.items() if row.ts_ms >= since_ms and first.get(id_, row.ts_ms) <= until_ms}
        if not touched:
            return []
        infos = self._infos(until_ms)
        ends = sorted(self._rows(lambda a: a.ends()), key=lambda r: r.ts_ms)
        found = [_container(id_, row, first.get(id_, row.ts_ms), infos.get(id_), ends) for id_, row in touched.items()]
        return sorted(found, key=lambda c: (c.host, c.path, c.first_ms, c.key))

    def series(
        self, containers: Sequence[StoredContainer], metric: Metric, since_ms: int, until_ms: int, bounds: Bounds
    ) -> Mapping[ContainerKey, Mapping[str, Sequence[Reading]]]:
        keys = {(c.key.instance, c.key.epoch): c.key for c in containers}
        collected: dict[ContainerKey, dict[str, dict[int, list[Any]]]] = {}
        is_sample = metric.table == "sample"
        count = 0

        def lines(wanted: Lines) -> Iterator[StoredRow]:
            try:
                yield from self._rows(lambda a: a.lines(wanted, bounds.deadline_s))
            except StoreError:
                bounds.check(count)  # the time may be over
                raise

        for wanted in _wanted(sorted({c.key.instance for c in containers}), metric, since_ms, until_ms):
            for row in lines(wanted):
                key = keys.get(_id(row))
                if key is None or not (is_sample or metric.name in row.fields):
                    continue
                own = collected.setdefault(key, {}).setdefault(row.tags.get(wanted.tag, ""), {})
                reading = own.get(row.ts_ms)
                if reading is None:
                    reading = own[row.ts_ms] = [False, None]
                    count += 1
                    if count % 1000 == 0 or count > bounds.rows:
                        bounds.check(count)
                if metric.name in row.fields:
                    reading[1] = row.fields[metric.name]
                reading[0] |= is_sample and bool(row.fields.get("is_closing"))
            bounds.check(count)
        return {
            key: {instance: [(ts_ms, *own[ts_ms]) for ts_ms in sorted(own)] for instance, own in by_instance.items()}
            for key, by_instance in collected.items()
        }

    def gaps(
        self, containers: Sequence[StoredContainer], since_ms: int, until_ms: int
    ) -> Mapping[ContainerKey, Sequence[Span]]:
        by_place: dict[tuple[str, str], list[Span]] = {}
        for row in self._rows(lambda a: a.gaps(since_ms, until_ms)):
            place = (row.tags.get("source", ""), row.tags.get("container_number", ""))
            by_place.setdefault(place, []).append((row.ts_ms, int(row.fields["to_ms"])))
        return {
            c.key: sorted(
                span
                for number in {"", c.ref.number if isinstance(c.ref, _Ref) else ""}
                for span in by_place.get((c.key.source, number), ())
            )
            for c in containers
        }

    def close(self) -> None:
        """Gives back the connection; the next question makes another one."""
        with self._lock:
            asker, self._asker = self._asker, None
        if asker is not None:
            asker.close()

    def _infos(self, until_ms: int) -> Mapping[tuple[str, int], StoredRow]:
        """The newest one of each container, its fields together."""
        found: dict[tuple[str, int], StoredRow] = {}
        for row in self._rows(lambda a: a.infos(until_ms)):
            other = found.get(_id(row))
            if other is None or other.ts_ms < row.ts_ms:
                found[_id(row)] = row._replace(fields=dict(row.fields))
            elif other.ts_ms == row.ts_ms:
                found[_id(row)] = other._replace(fields={**other.fields, **row.fields}, tags={**other.tags, **row.tags})
        return found

    def _rows(self, ask: Callable[[Asker], Iterator[Any]]) -> Iterator[Any]:
        try:
            with self._lock:
                if self._asker is None:
                    self._asker = self._connect()
                asker = self._asker
            yield from ask(asker)
        except SinkError as exc:
            if isinstance(exc, RetryableError) and exc.is_config_fault:
                self.close()  # a secret that was exchanged is read at the next question
            raise StoreError(str(exc)) from None


def _id(row: StoredRow) -> tuple[str, int]:
    return row.tags.get("instance", ""), int(row.tags.get("epoch") or 0)


def _wanted(instances: Sequence[str], metric: Metric, since_ms: int, until_ms: int) -> Iterator[Lines]:
    measurements: Sequence[str] = SAMPLES
    tag = ""
    fields = [metric.name]
    if metric.table == "sample":
        fields += [name for name in (*WITNESSES, "is_closing") if name != metric.name]
    elif metric.table not in SCALAR_TABLES:
        # A plug-in's metric is one value a container, or stands in the table `custom`.
        measurements = (*SAMPLES, "custom") if metric.table == "custom" else (metric.table,)
        tag = _tag(metric.table)
    for i in range(0, len(instances), _MANY):
        yield Lines(measurements, fields, instances[i : i + _MANY], tag, since_ms, until_ms)


def _tag(table: str) -> str:
    return instance_tag(TableSchema(table, INSTANCE_LABELS.get(table, "instance"), ()))


def _container(
    id_: tuple[str, int], row: StoredRow, first_ms: int, info: StoredRow | None, ends: Sequence[StoredRow]
) -> StoredContainer:
    """`row` is the newest line of it, `info` what is known of it besides, `ends` all that there are by time."""
    tags, fields = (row.tags, {}) if info is None else (info.tags, info.fields)
    number = tags.get("container_number", "")
    created_ms: Value = fields.get("created_ms")

    def is_its_end(end: StoredRow) -> bool:
        named = (end.tags.get("container_number", ""), end.tags.get("host", ""))
        return named == (number, fields.get("agent", "")) and end.ts_ms >= (created_ms or first_ms)

    return StoredContainer(
        key=ContainerKey(str(fields.get("source", "")), *id_),
        host=tags.get("host", ""),
        path=tags.get("container", ""),
        name=tags.get("name"),
        aliases=msgspec.json.decode(fields["aliases"], type=tuple[str, ...]) if "aliases" in fields else (),
        namespace=tags.get("namespace"),
        image=tags.get("image"),
        labels={k.removeprefix("label_"): v for k, v in row.tags.items() if k.startswith("label_")},
        runtime=fields.get("runtime"),
        container_id=fields.get("container_id"),
        pod=fields.get("pod"),
        pod_namespace=fields.get("pod_namespace"),
        pod_uid=fields.get("pod_uid"),
        created_ms=None if created_ms is None else int(created_ms),
        first_ms=first_ms,
        last_ms=row.ts_ms,
        ended_ms=next((end.ts_ms for end in ends if number and is_its_end(end)), None),
        silence_ms=int(fields.get("silence_ms", _DEFAULT_SILENCE_MS)),
        ref=_Ref(number),
    )
