"""Layout `heapster`: the measurements of Heapster's InfluxDB sink, for dashboards and scalers made for it. No I/O.

Heapster told each set of metrics (node, pod, container of a pod, free container) once a window, at the window's end. So each
sample is written at the end of the window that it lies in, and a later one of the same window takes its place in the store:
what is left is the newest, whether rows are written once or again. A window without a sample, between two samples with nothing
unknown between them, holds the values before it.

A rate is that over all intervals between samples that end in its window and are known (`pipeline.rates`): none over a gap, an
unknown silence or a counter that fell. What is remembered for that is lost in a restart of the program: the window that it
falls into then has rates over its rest, the same wherever counters rose evenly.

Sets are those of `pipeline.heapster`. Requests and limits of a pod or a node are sums over the containers of pods in it, as
the log knows them at that place. Namespaces and the cluster are not written: an agent sees its own host, and the sums of
several agents would overwrite one another; in a query they are sums over `type = 'pod'`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tidegauge.pipeline.heapster import sets
from tidegauge.pipeline.heapster.metrics import (
    RATES,
    RESOURCE,
    HeapsterMetric,
    Rate,
    Share,
    whole,
)
from tidegauge.pipeline.heapster.sets import Role, SetKey, SetType
from tidegauge.pipeline.rates import max_silence_ms
from tidegauge.pipeline.records import Batch, Container, Gap, Sample, Schema
from tidegauge.sinks.influxdb_heapster_state import (
    LABELED,
    LABELED_PLACE,
    NETWORK,
    PLACE,
    PLAIN,
    WINDOW_MS,
    Counter,
    Source,
    State,
    Values,
    window_of,
)
from tidegauge.sinks.line_protocol import MAX_TS_MS, NoLine, escape, series_key
from tidegauge.sinks.line_template import Field, LineTemplate

_UNSTORED = ("namespace_id", "pod_id", "hostname", "host_id")
"""Labels that Heapster kept out of InfluxDB."""
_CACHE_LIMIT = 20_000
_IS_INTEGER = tuple(m.is_integer for m in PLAIN)
_SHARES = tuple((PLACE[m.name], PLACE[m.origin.part], PLACE[m.origin.whole]) for m in PLAIN if isinstance(m.origin, Share))
_RATE_OF = {
    name: (PLACE[m.name], m.origin.factor * 1000) for name, m in RATES.items() if m.name in PLACE and isinstance(m.origin, Rate)
}
"""Cumulative metric -> place of its rate, and what an increase per ms is multiplied by."""


class HeapsterOptions(NamedTuple):
    with_fields: bool = False
    """True: a measurement for what stands before the slash of a name, and a field for what stands after it."""
    cluster_name: str = "default"
    disable_counters: bool = False
    """Leave out what has a rate."""


class HeapsterEncoder:
    """Turns batches into lines, with a memory that counts from `commit` on. One thread at a time."""

    def __init__(self, options: HeapsterOptions) -> None:
        self._options = options
        self._states: dict[int, State] = {}
        self._before: dict[int, State | None] = {}
        """States as they were before this write."""
        self._last: dict[tuple[int, int], int] = {}
        """Newest row of each container and window of this write."""
        self._sets: dict[int, _Set] = {}
        self._sources: dict[tuple[int, Role], Source] = {}
        self._summed: tuple[Mapping[int, Container], dict[SetKey, dict[str, float]]] = ({}, {})

    def begin(self, batches: Iterable[Batch]) -> None:
        """Before the batches of one write are given in turn."""
        self._last = {(s.container, window_of(s.ts_ms)): row for b in batches for row, s in zip(b.rows, b.samples, strict=True)}

    def encode_batch(self, batch: Batch) -> tuple[list[bytes], dict[int, str]]:
        """As `line_protocol.encode_batch`. A row has no lines whose window a later one of the write tells."""
        lines: list[bytes] = []
        rejected: dict[int, str] = {}
        for row, sample in zip(batch.rows, batch.samples, strict=True):
            try:
                container = batch.containers.get(sample.container)
                schema = batch.schemas.get(sample.schema)
                if container is None or schema is None:
                    raise NoLine(f"no record of container {sample.container} or of schema {sample.schema}")
                if not -MAX_TS_MS + WINDOW_MS <= sample.ts_ms <= MAX_TS_MS - WINDOW_MS:
                    raise NoLine(f"time {sample.ts_ms} ms: expected one within +-{MAX_TS_MS - WINDOW_MS}")
                is_told = self._last.get((sample.container, window_of(sample.ts_ms)), row) == row
                lines.append(b"\n".join(filter(None, self._sample(container, schema, sample, batch.containers, is_told))))
            except NoLine as exc:
                rejected[row] = str(exc)
                lines.append(b"")
        return lines, rejected

    def gap(self, gap: Gap) -> None:
        """Nothing is known across it."""
        for number in [gap.container] if gap.container is not None else list(self._states):
            state = self._states.get(number)
            if state is not None and state.source == gap.source and state.ts_ms < gap.to_ms:
                self._kept(number, state).break_off()

    def end(self, number: int) -> None:
        state = self._states.get(number)
        if state is not None:
            self._kept(number, state)
            del self._states[number]

    def commit(self) -> None:
        self._before = {}
        if len(self._states) > _CACHE_LIMIT:
            newest = max(s.ts_ms for s in self._states.values())
            self._states = {n: s for n, s in self._states.items() if newest - s.ts_ms < 10 * WINDOW_MS}

    def rollback(self) -> None:
        for number, state in self._before.items():
            if state is None:
                self._states.pop(number, None)
            else:
                self._states[number] = state
        self._before = {}

    def _kept(self, number: int, state: State) -> State:
        """The state, of which this write's `rollback` keeps a copy."""
        if number not in self._before:
            self._before[number] = state.copy()
        return state

    def _sample(
        self, container: Container, schema: Schema, sample: Sample, containers: Mapping[int, Container], is_told: bool
    ) -> Iterator[bytes]:
        own = self._sets.get(sample.container)
        if own is None or (own.container is not container and own.container != container):
            if len(self._sets) >= _CACHE_LIMIT:
                self._sets.clear()
            own = self._sets[sample.container] = _Set(container, self._options)
        source = self._sources.get((schema.id, own.role))
        if source is None:
            if len(self._sources) >= 100:
                self._sources.clear()
            source = self._sources[schema.id, own.role] = Source(schema, own.role)
        state = self._states.get(sample.container)
        if state is None:
            self._before.setdefault(sample.container, None)
            state = self._states[sample.container] = State(container.source)
        else:
            self._kept(sample.container, state)
        if sample.ts_ms <= state.ts_ms:
            # Given again, or replayed from the dead letters: its values, of a window that is over, but none made from others.
            if not is_told or window_of(sample.ts_ms) == window_of(state.ts_ms):
                return
            state = State(container.source)
        window, silence_ms = window_of(sample.ts_ms), max_silence_ms(container)
        missing: range | tuple[int, ...] = ()
        held = state.values
        if not state.is_broken and sample.ts_ms - state.ts_ms <= silence_ms:
            missing = range(window_of(state.ts_ms) + WINDOW_MS, window, WINDOW_MS)
        before = held if missing else None
        source.take(state, sample, window, silence_ms)
        if before is not None:
            for at in missing:
                yield own.plain(self._finished(own, before, state, at, containers, lambda c: c.pair), at)
                yield from own.labeled(state, at, lambda c: c.pair)
        if is_told:
            rate = _per_window(window)
            yield own.plain(self._finished(own, state.values, state, window, containers, rate), window)
            yield from own.labeled(state, window, rate)
        state.ts_ms, state.is_broken = sample.ts_ms, False

    def _finished(
        self,
        own: "_Set",
        values: Values,
        state: State,
        at_ms: int,
        containers: Mapping[int, Container],
        pair_of: "Callable[[Counter], tuple[int | float, int] | None]",
    ) -> Values:
        """The values at this time with facts, rates and what is made from these."""
        out = list(values)
        for name, counter in state.counters.items():
            pair = pair_of(counter)
            place, factor = _RATE_OF[name]
            out[place] = None if pair is None else pair[0] / pair[1] * factor
        if own.role is not Role.SANDBOX:
            for name, value in sets.facts(own.container, at_ms):
                out[PLACE[name]] = value
        if own.role in (Role.NODE, Role.POD):
            for name, value in self._requests(sets.key(own.container), containers).items():
                out[PLACE[name]] = value
        if own.role is Role.NODE:
            for place, part_at, whole_at in _SHARES:
                part, of = out[part_at], out[whole_at]
                out[place] = part / of if part is not None and of else None
        return [None if v is None else whole(v, is_integer) for v, is_integer in zip(out, _IS_INTEGER, strict=True)]

    def _requests(self, key: SetKey, containers: Mapping[int, Container]) -> Mapping[str, float]:
        """Requests, limits and restarts of a pod's containers, or of all pods on a node, as known at this place of the log."""
        if self._summed[0] is not containers:
            found: dict[SetKey, dict[str, float]] = {}
            for c in containers.values():
                if sets.role(c) is not Role.CONTAINER:
                    continue
                of = sets.key(c)
                own = dict(sets.limits(c.spec))
                _add(found.setdefault(SetKey(SetType.NODE, of.node), {}), own)
                if c.restart_count is not None:
                    own["restart_count"] = c.restart_count
                _add(found.setdefault(SetKey(SetType.POD, of.node, of.namespace, of.pod), {}), own)
            self._summed = (containers, found)
        return self._summed[1].get(key, {})


def _add(into: dict[str, float], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        into[name] = into.get(name, 0) + value


def _per_window(window: int) -> "Callable[[Counter], tuple[int | float, int] | None]":
    return lambda c: (c.increase, c.duration_ms) if c.window == window and c.duration_ms else None


class _Set:
    """Tags and templates of one container record."""

    def __init__(self, container: Container, options: HeapsterOptions) -> None:
        self.container = container
        self.role = sets.role(container)
        self._options = options
        labels = {k: v for k, v in sets.labels(container).items() if k not in _UNSTORED}
        self._tags = labels | {"cluster_name": options.cluster_name}
        of_pod = self._tags
        if self.role is Role.CONTAINER:
            left_out = ("container_name", "container_base_image", "labels")
            of_pod = {k: v for k, v in self._tags.items() if k not in left_out} | {"type": SetType.POD.value}
        self._plain = self._template(PLAIN, lambda m: of_pod if m.name in _NETWORK_ALL else self._tags)
        self._devices: dict[str, LineTemplate] = {}

    def plain(self, values: Values, at_ms: int) -> bytes:
        return self._plain.render(values, at_ms)

    def labeled(
        self, state: State, at_ms: int, pair_of: "Callable[[Counter], tuple[int | float, int] | None]"
    ) -> Iterator[bytes]:
        for device, values in state.labeled.items():
            out = list(values)
            for m in LABELED:
                if isinstance(m.origin, Rate):
                    counter = state.devices.get((m.origin.of, device))
                    pair = None if counter is None else pair_of(counter)
                    out[LABELED_PLACE[m.name]] = None if pair is None else pair[0] * 1000 / pair[1] * m.origin.factor
            template = self._devices.get(device)
            if template is None:
                if len(self._devices) >= 1000:
                    self._devices.clear()
                tags = self._tags | {RESOURCE: device}
                template = self._devices[device] = self._template(LABELED, lambda m, tags=tags: tags)  # type: ignore[misc]
            yield template.render(out, at_ms)

    def _template(self, metrics: Sequence[HeapsterMetric], tags_of: Callable[[HeapsterMetric], dict[str, str]]) -> LineTemplate:
        lines: dict[bytes, list[Field]] = {}
        for place, m in enumerate(metrics):
            if self._options.disable_counters and m.name in RATES:
                continue
            measurement, _, field = m.name.partition("/") if self._options.with_fields else (m.name, "", "")
            key = series_key(measurement, tags_of(m))
            lines.setdefault(key, []).append(Field(escape(field or "value"), place, not m.is_integer))
        return LineTemplate(list(lines.items()))


_NETWORK_ALL = frozenset((*NETWORK, *(RATES[n].name for n in NETWORK if n in RATES)))
