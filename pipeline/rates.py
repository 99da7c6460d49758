"""Rates of counters, and smoothing, as readers of stored samples need them: pure functions, no clock, no I/O.

A rate exists for an interval between two readings of one container number, where everything between them is known. Otherwise
there is none, and the list of rates has no entry over that span; nothing is guessed:

- Another number is another instance or epoch: no rate across.
- A gap record that overlaps the interval, or an interval longer than silence may be (`max_silence_ms`): no rate.
- None in an ordinary sample is unknown: no rate up to it and none from it. None in a closing sample was not read: the value
  before it holds until then, so that what changed is counted to the time after the closing sample.
- A counter that fell began anew, or is a sum that lost a part (an interface, a disk). Which of the two cannot be seen, and
  taking the new value for the increase would make a burst of what never happened: no rate over that interval.

Points are sorted by time within each number, whose order is that of their first appearance (after a step of the clock the
times of two numbers overlap). Of two points of one number and time the first counts, as a store keeps it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tidegauge.pipeline.records import Container, Gap, Sample, Schema, Value


class Point(NamedTuple):
    """One reading of one counter."""

    ts_ms: int
    value: Value
    container: int = 0
    """The container's number."""
    is_closing: bool = False


class Rate(NamedTuple):
    """How much a counter rose between two times; never less than 0."""

    from_ms: int
    to_ms: int
    increase: int | float
    container: int = 0

    @property
    def per_s(self) -> float:
        return self.increase * 1000 / (self.to_ms - self.from_ms)


class Step(NamedTuple):
    """A value that holds from one time to another."""

    from_ms: int
    to_ms: int
    value: float


class Level(NamedTuple):
    """A smoothed value at one time."""

    ts_ms: int
    value: float


class Mean(NamedTuple):
    value: float
    covered_ms: int
    """For how much of the window there were values."""


def points(samples: Iterable[Sample], schemas: Mapping[int, Schema], metric: str) -> Iterator[Point]:
    """The readings of one metric of the tables `sample...` in samples; None where the schema does not have it."""
    places: dict[int, int | None] = {}
    for s in samples:
        if s.schema not in places:
            names = schemas[s.schema].names
            places[s.schema] = names.index(metric) if metric in names else None
        place = places[s.schema]
        yield Point(s.ts_ms, None if place is None else s.values[place], s.container, s.is_closing)


def table_points(
    samples: Iterable[Sample], schemas: Mapping[int, Schema], table: str, instance: str, metric: str
) -> Iterator[Point]:
    """The readings of one metric of one instance (an interface, a disk). No point where the table, or its row, was not read.

    An instance that a table which was read does not have is None, and so is a metric that its schema does not have.
    """
    for s in samples:
        schemas_table = next(((i, t) for i, t in enumerate(schemas[s.schema].tables) if t.name == table), None)
        if schemas_table is None:
            yield Point(s.ts_ms, None, s.container, s.is_closing)
            continue
        place, schema = schemas_table
        rows = s.tables[place] if place < len(s.tables) else None
        if rows is None:
            if s.is_closing:
                yield Point(s.ts_ms, None, s.container, True)
            continue
        column = next((i for i, m in enumerate(schema.metrics, 1) if m.name == metric), None)
        row = next((r for r in rows if r[0] == instance), None)
        if row is not None and row.count(None) == len(row) - 1:
            continue
        value = None if row is None or column is None else row[column]
        yield Point(s.ts_ms, None if isinstance(value, str) else value, s.container, s.is_closing)


def max_silence_ms(container: Container) -> int:
    """The longest interval between two samples of this container over which silence says that it was idle."""
    return round(1000 * (container.max_interval_s + container.base_interval_s))


FILESYSTEM_SILENCE_MS = 61_000
"""Filesystems are read apart, each ten seconds unless set otherwise, and stand in some samples only, while the host itself is
sampled at its base interval. What was read of them holds at least so long."""


def table_silence_ms(silence_ms: int, table: str) -> int:
    """The longest interval between two readings of a table over which nothing is unknown, where that of samples is given."""
    return max(silence_ms, FILESYSTEM_SILENCE_MS) if table == "filesystem" else silence_ms


def rate_between(before: Point, after: Point, gaps: Sequence[Gap] = (), silence_ms: int | None = None) -> Rate | None:
    """The rate from one reading to the next one; None where there is none, and for points out of order."""
    if after.ts_ms <= before.ts_ms:
        return None
    return next(iter(rates((before, after), gaps, silence_ms)), None)


def rates(points: Iterable[Point], gaps: Sequence[Gap] = (), silence_ms: int | None = None) -> list[Rate]:
    """The rates of a counter, by number and then by time; see the module for where there is none.

    `gaps` are those of the points' source; those of other containers are passed over. `silence_ms` is the longest interval
    that is known, None for no bound.
    """
    by_number: dict[int, list[Point]] = {}
    for point in points:
        by_number.setdefault(point.container, []).append(point)
    out: list[Rate] = []
    for number, own in by_number.items():
        own.sort(key=lambda p: p.ts_ms)
        spans = [(g.from_ms, g.to_ms) for g in gaps if g.container is None or g.container == number]
        out.extend(_rates_of_one(own, spans, silence_ms))
    return out


def _rates_of_one(own: Sequence[Point], gaps: Sequence[tuple[int, int]], silence_ms: int | None) -> Iterator[Rate]:
    before = own[0]
    for point in own[1:]:
        if point.ts_ms == before.ts_ms:
            continue
        is_known = not _is_broken(before.ts_ms, point.ts_ms, gaps, silence_ms)
        value = point.value
        if value is None and point.is_closing and is_known:
            value = before.value
        if is_known and value is not None and before.value is not None and value >= before.value:
            yield Rate(before.ts_ms, point.ts_ms, value - before.value, point.container)
        before = Point(point.ts_ms, value)


def _is_broken(from_ms: int, to_ms: int, gaps: Sequence[tuple[int, int]], silence_ms: int | None) -> bool:
    """True if something between the two times is not known. A gap that only touches them is outside."""
    if silence_ms is not None and to_ms - from_ms > silence_ms:
        return True
    return any(from_ms < gap_to and gap_from < to_ms for gap_from, gap_to in gaps)


def per_second(rates: Iterable[Rate]) -> list[Step]:
    """Bytes, operations, packets ... a second."""
    return [Step(r.from_ms, r.to_ms, r.per_s) for r in rates]


def cpu_cores(rates: Iterable[Rate]) -> list[Step]:
    """Cores used, of the rates of a CPU time in ns (`cpu_usage_ns`): 1.0 is one core all the time."""
    return [Step(r.from_ms, r.to_ms, r.per_s / 1e9) for r in rates]


def share(part: Iterable[Rate], whole: Iterable[Rate]) -> list[Step]:
    """Part of the whole, 0 to 1, where both have a rate over the same interval: throttled periods of all periods.

    No value where the whole did not rise: of no periods none is a share. More than 1, as two counters that are not read at
    one instant can give, is 1.
    """
    wholes = {(r.container, r.from_ms, r.to_ms): r.increase for r in whole}
    return [
        Step(r.from_ms, r.to_ms, min(1.0, r.increase / of))
        for r in part
        if (of := wholes.get((r.container, r.from_ms, r.to_ms)))
    ]


def exponential(steps: Iterable[Step], span_s: float) -> list[Level]:
    """Exponential mean at the end of each step, by the time that really passed: cutting a step in two changes nothing.

    A value weighs 1/e of what it did after `span_s` (over 0). Begins at the first value, and anew at each step that does not
    begin where the one before ended: what was before an unknown time says nothing of the time after it.
    """
    out: list[Level] = []
    end_ms: int | None = None
    mean = 0.0
    for step in steps:
        keep = math.exp((step.from_ms - step.to_ms) / 1000 / span_s) if step.from_ms == end_ms else 0.0
        mean = step.value + keep * (mean - step.value)
        end_ms = step.to_ms
        out.append(Level(end_ms, mean))
    return out


def window_mean(steps: Iterable[Step], from_ms: int, to_ms: int) -> Mean | None:
    """Mean over a window, each value weighted by the time that it holds within it; None if there is none.

    Steps of one container number: where two overlap, both count.
    """
    covered_ms = 0
    total = 0.0
    for step in steps:
        inside_ms = min(step.to_ms, to_ms) - max(step.from_ms, from_ms)
        if inside_ms > 0:
            covered_ms += inside_ms
            total += step.value * inside_ms
    return Mean(total / covered_ms, covered_ms) if covered_ms else None
