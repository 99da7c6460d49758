"""Percentiles of CPU and memory over the last minute, hour and day, over the samples that are stored.

Values hold for a time (a rate between two samples, the memory from one to the next), and everything here is weighted by it: the
90th percentile is the least value that was not exceeded for 90 % of the time that is known. A span without samples that is
longer than silence may be is not known. Pure, but for the class that remembers days for a minute.
"""

import itertools
import math
import threading
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tidegauge.api.cadvisor import shapes as s
from tidegauge.api.cadvisor.catalog import Entry
from tidegauge.api.cadvisor.reading import go_time
from tidegauge.pipeline.latest import KeepsSamples
from tidegauge.pipeline.plugin import ColumnReader
from tidegauge.pipeline.rates import max_silence_ms
from tidegauge.pipeline.records import Value

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
_SLACK_MS = 2_000
"""A period counts as complete although the first sample in it may come so late."""
SLICE_MS = 600_000
"""Span that is read from the SQL store at a time."""
BUDGET_S = 5.0
"""How long one request reads from the SQL store, for all of its containers; older samples are left out then."""
KEEP_S = 60.0
"""How long an hour and a day are remembered, as cAdvisor does too."""
_COLUMNS = ("cpu_usage_ns", "memory_working_set_bytes")


class Point(NamedTuple):
    """A sample. None: not known, or not read."""

    number: int
    """What tells epochs apart."""
    ts_ms: int
    cpu_ns: Value
    memory_bytes: Value


class Span(NamedTuple):
    """A value and for how long it held."""

    value: int
    ms: int


def rates(points: Sequence[Point], longest_ms: int) -> list[Span]:
    """CPU in milli-cores between neighbours of one epoch; none where the counter fell or the time between is too long."""
    found = []
    known = [p for p in points if p.cpu_ns is not None]
    for a, b in itertools.pairwise(known):
        ms, increase = b.ts_ms - a.ts_ms, int(b.cpu_ns or 0) - int(a.cpu_ns or 0)
        if a.number == b.number and 0 < ms <= longest_ms and increase >= 0:
            found.append(Span(increase // (ms * 1000), ms))
    return found


def levels(points: Sequence[Point], longest_ms: int) -> list[Span]:
    """Memory from each sample to the next; the last one holds a moment."""
    found = []
    known = [p for p in points if p.memory_bytes is not None]
    for a, b in itertools.pairwise(known):
        ms = b.ts_ms - a.ts_ms
        if a.number == b.number and 0 < ms <= longest_ms:
            found.append(Span(int(a.memory_bytes or 0), ms))
    if known:
        found.append(Span(int(known[-1].memory_bytes or 0), 1))
    return found


def percentiles(spans: Iterable[Span]) -> s.Percentiles:
    """Weighted by time; `count` is the number of values. All zeros and not `present` without any."""
    ordered = sorted(spans)
    total = sum(span.ms for span in ordered)
    if not total:
        return s.Percentiles(present=False, mean=0, std=0, max=0, fifty=0, ninety=0, ninetyfive=0, count=0)
    mean = sum(v * ms for v, ms in ordered) / total
    variance = sum(ms * (v - mean) ** 2 for v, ms in ordered) / total

    def at(percent: int) -> int:
        passed = 0
        for value, ms in ordered:
            passed += ms
            if passed * 100 >= total * percent:
                return value
        return ordered[-1].value

    return s.Percentiles(
        present=True,
        mean=int(mean),
        std=int(math.sqrt(variance)),
        max=ordered[-1].value,
        fifty=at(50),
        ninety=at(90),
        ninetyfive=at(95),
        count=len(ordered),
    )


def usage(points: Sequence[Point], period_ms: int, longest_ms: int) -> s.Usage:
    """Over the last `period_ms` before the newest point. Complete is the part of it that is known."""
    end_ms = points[-1].ts_ms if points else 0
    inside = [p for p in points if p.ts_ms >= end_ms - period_ms]
    cpu, memory = rates(inside, longest_ms), levels(inside, longest_ms)
    covered_ms = max(sum(span.ms for span in cpu), sum(span.ms for span in memory))
    complete = 100 if covered_ms >= period_ms - _SLACK_MS else covered_ms * 100 // period_ms
    return s.Usage(percent_complete=complete, cpu=percentiles(cpu), memory=percentiles(memory))


def latest(points: Sequence[Point], longest_ms: int) -> s.InstantUsage:
    spans = rates(points[-8:], longest_ms)
    memory = next((int(p.memory_bytes) for p in reversed(points) if p.memory_bytes is not None), 0)
    return s.InstantUsage(cpu=spans[-1].value if spans else 0, memory=memory)


class Summaries:
    """Makes them; hour and day of a container are remembered. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, s.Usage, s.Usage]] = {}

    def of(self, entry: Entry, store: KeepsSamples, history: ColumnReader | None, deadline_s: float) -> s.DerivedStats | None:
        """None before the first sample. `deadline_s`, by the monotonic clock, is when reading from the SQL store ends."""
        container = entry.container
        recent = _recent(container.instance, store)
        if not recent:
            return None
        longest_ms = max_silence_ms(container)
        hour, day = self._long(container.instance, recent, history, longest_ms, deadline_s)
        return s.DerivedStats(
            timestamp=go_time(recent[-1].ts_ms),
            latest_usage=latest(recent, longest_ms),
            minute_usage=usage(recent, MINUTE_MS, longest_ms),
            hour_usage=hour,
            day_usage=day,
        )

    def _long(
        self, instance: str, recent: list[Point], history: ColumnReader | None, longest_ms: int, deadline_s: float
    ) -> tuple[s.Usage, s.Usage]:
        now_s = time.monotonic()
        with self._lock:
            known = self._known.get(instance)
        if known is not None and now_s - known[0] < KEEP_S:
            return known[1], known[2]
        points = [*_stored(instance, recent, history, deadline_s), *recent]
        hour, day = usage(points, HOUR_MS, longest_ms), usage(points, DAY_MS, longest_ms)
        with self._lock:
            self._known = {i: k for i, k in self._known.items() if now_s - k[0] < KEEP_S}
            self._known[instance] = (now_s, hour, day)
        return hour, day


def _recent(instance: str, store: KeepsSamples) -> list[Point]:
    places: dict[int, tuple[int | None, ...]] = {}
    found = []
    for sample, schema in store.samples(instance):
        if schema.id not in places:
            names = schema.names
            places[schema.id] = tuple(names.index(c) if c in names else None for c in _COLUMNS)
        cpu, memory = (None if i is None else sample.values[i] for i in places[schema.id])
        found.append(Point(sample.container, sample.ts_ms, cpu, memory))
    return found


def _stored(instance: str, recent: list[Point], history: ColumnReader | None, deadline_s: float) -> list[Point]:
    """Oldest first, before the recent ones, as far back as a day or as time allows. [] if the store does not answer."""
    if history is None or time.monotonic() >= deadline_s:
        return []
    try:
        return _slices(instance, recent, history, deadline_s)
    except Exception:  # noqa: BLE001 - whatever ails the store, the minute is known without it
        return []


def _slices(instance: str, recent: list[Point], history: ColumnReader, deadline_s: float) -> list[Point]:
    # within the store epochs have numbers of their own: below zero, so that none is taken for one of the memory's
    slices: list[list[Point]] = []
    end_ms = recent[0].ts_ms - 1
    began_ms = history.first_ms(instance)
    if began_ms is None:
        return []
    first_ms = max(recent[-1].ts_ms - DAY_MS, began_ms)
    while end_ms >= first_ms and time.monotonic() < deadline_s:
        start_ms = max(first_ms, end_ms - SLICE_MS + 1)
        rows = history.columns(instance, _COLUMNS, start_ms, end_ms)
        slices.append([Point(-1 - int(row[0] or 0), int(row[1] or 0), row[2], row[3]) for row in rows])
        end_ms = start_ms - 1
    return [point for points in reversed(slices) for point in points]
