"""What the layout `heapster` remembers of a container between samples, and where its values stand in them. No I/O."""

from typing import Any

from tidegauge.pipeline.heapster.metrics import METRICS, Each, Scalar, Sum, Type
from tidegauge.pipeline.heapster.sets import Role
from tidegauge.pipeline.records import Sample, Schema
from tidegauge.sinks.line_protocol import NoLine

WINDOW_MS = 60_000
"""Heapster's own resolution, which dashboards for it expect."""
PLAIN = tuple(m for m in METRICS if not m.is_labeled)
LABELED = tuple(m for m in METRICS if m.is_labeled)
PLACE = {m.name: i for i, m in enumerate(PLAIN)}
LABELED_PLACE = {m.name: i for i, m in enumerate(LABELED)}
NETWORK = tuple(m.name for m in PLAIN if m.name.startswith("network/"))

Values = list[int | float | None]


def window_of(ts_ms: int) -> int:
    """End of the window that the time lies in; a time on the edge is the end of the one before."""
    return -(-ts_ms // WINDOW_MS) * WINDOW_MS


class Counter:
    """A cumulative metric of one set or one device."""

    __slots__ = ("duration_ms", "increase", "pair", "ts_ms", "value", "window")

    def __init__(self) -> None:
        self.ts_ms = 0
        self.value: int | float | None = None
        self.window = 0
        self.increase: int | float = 0
        self.duration_ms = 0
        self.pair: tuple[int | float, int] | None = None
        """Increase and duration of the newest interval, if it is known."""

    def step(self, ts_ms: int, value: int | float | None, window: int, silence_ms: int) -> None:
        self.pair = None
        before = self.value
        took_ms = ts_ms - self.ts_ms
        if value is not None and before is not None and value >= before and 0 < took_ms <= silence_ms:
            if self.window != window:
                self.window, self.increase, self.duration_ms = window, 0, 0
            self.increase += value - before
            self.duration_ms += took_ms
            self.pair = (value - before, took_ms)
        self.ts_ms, self.value = ts_ms, value

    def per_s(self, window: int) -> float | None:
        return self.increase * 1000 / self.duration_ms if self.window == window and self.duration_ms else None

    def copy(self) -> "Counter":
        other = Counter.__new__(Counter)
        other.ts_ms, other.value, other.window = self.ts_ms, self.value, self.window
        other.increase, other.duration_ms, other.pair = self.increase, self.duration_ms, self.pair
        return other


class State:
    """What is remembered of one container."""

    __slots__ = ("counters", "devices", "is_broken", "labeled", "source", "ts_ms", "values")

    def __init__(self, source: str) -> None:
        self.source = source
        self.ts_ms = -(2**63)
        self.is_broken = True
        """Nothing is known from the last sample to the next one."""
        self.values: Values = [None] * len(PLAIN)
        self.counters: dict[str, Counter] = {}
        self.labeled: dict[str, Values] = {}
        self.devices: dict[tuple[str, str], Counter] = {}

    def copy(self) -> "State":
        other = State(self.source)
        other.ts_ms, other.is_broken, other.values = self.ts_ms, self.is_broken, list(self.values)
        other.counters = {k: c.copy() for k, c in self.counters.items()}
        other.labeled = {k: list(v) for k, v in self.labeled.items()}
        other.devices = {k: c.copy() for k, c in self.devices.items()}
        return other

    def break_off(self) -> None:
        self.is_broken = True
        for counter in (*self.counters.values(), *self.devices.values()):
            counter.value = None


class Source:
    """Where Heapster's values stand in the samples of one schema, for one role."""

    def __init__(self, schema: Schema, role: Role) -> None:
        places = {m.name: i for i, m in enumerate(schema.metrics)}
        tables = {t.name: i for i, t in enumerate(schema.tables)}
        columns = {(t.name, m.name): i for t in schema.tables for i, m in enumerate(t.metrics, 1)}
        self._width = len(schema.metrics)
        self._uptime = places.get("uptime_seconds") if role is Role.NODE else None
        self._scalars: list[tuple[str, int, int, bool]] = []
        self._sums: list[tuple[str, int, int, int, bool]] = []
        self._each: dict[int, list[tuple[str, int, int, bool]]] = {}
        for m in METRICS:
            origin = m.origin
            is_counter = m.type is Type.CUMULATIVE
            if isinstance(origin, Scalar) and origin.metric in places and role is not Role.SANDBOX:
                self._scalars.append((m.name, PLACE[m.name], places[origin.metric], is_counter))
            elif isinstance(origin, Sum) and (origin.table, origin.metric) in columns:
                # The network of a pod is that of its sandbox, or of whoever the namespace is counted at.
                if role is not Role.SANDBOX or m.name in NETWORK:
                    column = columns[origin.table, origin.metric]
                    self._sums.append((m.name, PLACE[m.name], tables[origin.table], column, is_counter))
            elif isinstance(origin, Each) and role is not Role.SANDBOX:
                column_ = columns.get(origin.of(role is Role.NODE))
                if column_ is not None:
                    table = tables[origin.of(role is Role.NODE)[0]]
                    self._each.setdefault(table, []).append((m.name, LABELED_PLACE[m.name], column_, is_counter))

    def take(self, state: State, sample: Sample, window: int, silence_ms: int) -> None:
        """Brings the state up to this sample.

        What an earlier sample of the same window has told stands in the store, so a value that this one does not have stays.
        """
        if len(sample.values) != self._width:
            raise NoLine(f"{len(sample.values)} values: expected {self._width} by the schema")
        ts_ms, values = sample.ts_ms, list(state.values)
        is_same_window = window_of(state.ts_ms) == window
        for name, place, at, is_counter in self._scalars:
            value = sample.values[at]
            if value is not None or not (sample.is_closing or is_same_window):
                values[place] = value
            if is_counter:
                counter = _counter(state.counters, name)
                is_unread = value is None and sample.is_closing
                counter.step(ts_ms, counter.value if is_unread else value, window, silence_ms)
        if self._uptime is not None and (uptime_s := sample.values[self._uptime]) is not None:
            values[PLACE["uptime"]] = uptime_s * 1000
        for name, place, table, column, is_counter in self._sums:
            rows = sample.tables[table] if table < len(sample.tables) else None
            if rows is None:
                continue
            cells: list[Any] = [row[column] for row in rows if row[column] is not None]
            total = sum(cells) if cells else None
            if total is not None or not is_same_window:
                values[place] = total
            if is_counter:
                _counter(state.counters, name).step(ts_ms, total, window, silence_ms)
        for table, metrics in self._each.items():
            rows = sample.tables[table] if table < len(sample.tables) else None
            if rows is None or sample.is_closing:
                continue
            names = {str(row[0]) for row in rows}
            for row in rows:
                device = str(row[0])
                own = state.labeled.setdefault(device, [None] * len(LABELED))
                for name, place, column, is_counter in metrics:
                    cell: Any = row[column]
                    if cell is not None or not is_same_window:
                        own[place] = cell
                    if is_counter:
                        _counter(state.devices, (name, device)).step(ts_ms, cell, window, silence_ms)
            for device, own in state.labeled.items():
                if device in names:
                    continue
                for name, place, _, _ in metrics:
                    if (gone := state.devices.get((name, device))) is not None:
                        gone.value = None
                    if not is_same_window:
                        own[place] = None
        state.values = values


def _counter(counters: dict[Any, Counter], key: Any) -> Counter:
    found = counters.get(key)
    if found is None:
        found = counters[key] = Counter()
    return found
