"""One series of an answer about history: readings and roll-ups of its containers -> a value for each bucket. Pure; no I/O.

A counter's values are its rates (in seconds a second where it counts ns: of CPU time, cores), a gauge's its values; both hold
for a time, and everything here is weighted by it (`buckets`). Of one series in one bucket:

- `avg`: the mean over the known time of all its containers; `rate` and `sum`: the containers' means added up, each for the part
  of the bucket in which it lived, so that an unknown time counts as the known one of the same container and bucket;
- `increase`: what is known of the increases, added up; `count`: readings;
- `min`, `max`: the least and the greatest value of any container; `last`: the newest one;
- percentiles: the least value that was not exceeded for so much of the known time of all containers together (nearest rank,
  exact over samples; over roll-ups by their sketches, within 1 % of the value).

Containers are nested. Where values are added up, one that lies below another of the same series that has values is left out.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tidegauge.pipeline import buckets
from tidegauge.pipeline.history import Reading, Span, StoredContainer
from tidegauge.pipeline.history_query import Question, fits_instance
from tidegauge.pipeline.history_resolution import needs_sketch
from tidegauge.pipeline.rates import table_silence_ms
from tidegauge.pipeline.records import Kind, Metric, Value
from tidegauge.pipeline.sketch import Sketch

SLOW_SILENCE_MS = 600_000
"""Beyond the silence of samples: what slow collectors read is in some samples only, and may be that much older."""
_CORE = ("sample", "sample_host", "network", "disk_io", "percpu", "host_cpu", "host_disk", "filesystem")
"""Tables that nearly every sample has, but closing ones; and filesystems."""


class Point(msgspec.Struct, frozen=True):
    """One bucket, from `ts_ms` on."""

    ts_ms: int
    value: float | int | None
    """None: unknown or gone, never 0 for it."""
    coverage: float | None
    """The known share, 0 to 1, of the time in which its containers lived; None: none did."""
    state: str
    """`measured`; `unchanged` (a counter that is proven not to have moved), `last_observed` (no reading in it, the one before
    holds), `unknown`, `gone` (no container of the series lived then)."""


class Series(msgspec.Struct, frozen=True):
    labels: Mapping[str, str]
    """What its containers have in common, by the question's groups; empty where they have none."""
    names: Sequence[str]
    """Names, or else paths, of its containers, ten at most."""
    containers: int
    """Epochs and instances of containers that it is made of."""
    value: float | int | None
    """Over the whole span."""
    coverage: float | None
    points: Sequence[Point]
    """A bucket each; empty where no buckets were asked for."""


def silence_ms_of(c: StoredContainer, metric: Metric) -> int:
    """Of core tables the samples' own, and of filesystems a minute at least; others are of slow collectors, in part."""
    return table_silence_ms(c.silence_ms, metric.table) if metric.table in _CORE else c.silence_ms + SLOW_SILENCE_MS


def readings_of(own: Mapping[str, Sequence[Reading]], instance: str | None, metric: Metric) -> Sequence[Reading]:
    """Of a container: the one series there is, or the sum of those that fit."""
    chosen = [r for name, r in own.items() if fits_instance(name, instance)]
    return chosen[0] if len(chosen) == 1 else summed(chosen, metric.kind)


def summed(parts: Sequence[Sequence[Reading]], kind: Kind) -> list[Reading]:
    """Readings of the sum over instances (interfaces, disks ...), of those that were read at each time.

    Where a counter's instances are not the same as at the reading before, how much the sum rose is unknown: a reading of
    None stands between the two.
    """
    at: dict[int, list[tuple[int, Reading]]] = {}
    for i, part in enumerate(parts):
        for reading in part:
            at.setdefault(reading[0], []).append((i, reading))
    out: list[Reading] = []
    before: set[int] | None = None
    for ts_ms in sorted(at):
        found = at[ts_ms]
        values = [r[2] for _, r in found if r[2] is not None]
        if kind is Kind.COUNTER:
            now = {i for i, r in found if r[2] is not None}
            if before is not None and now != before and out[-1][0] < ts_ms - 1:
                out.append((ts_ms - 1, False, None))
            before = now
        out.append((ts_ms, all(r[1] for _, r in found), sum(values) if values else None))
    return out


class _Cell:
    """What is known of a series in one bucket, gathered over its containers."""

    __slots__ = ("count", "covered_ms", "high", "increase", "last", "lived_ms", "low", "pairs", "sketch", "sums", "total")

    def __init__(self) -> None:
        self.lived_ms = 0
        self.covered_ms = 0
        self.count = 0
        self.total: float = 0
        self.increase: Value = None
        self.sums: float | None = None
        self.low: Value = None
        self.high: Value = None
        self.last: Value = None
        self.pairs: list[tuple[float, int]] = []
        self.sketch: Sketch | None = None

    def take(self, other: "_Cell | buckets.Bucket") -> None:
        """As if the other's had been gathered here; of a later time."""
        self.covered_ms += other.covered_ms
        self.count += other.count
        self.total += other.total
        self.increase = _plus(self.increase, other.increase)
        if isinstance(other, _Cell):
            self.lived_ms += other.lived_ms
            self.pairs += other.pairs
            self.see(other.low, other.high)
        else:
            self.see(other.min, other.max)
        if other.last is not None:
            self.last = other.last
        if other.sketch is not None:
            if self.sketch is None:
                self.sketch = Sketch()
            self.sketch.merge(other.sketch)

    def see(self, low: Value, high: Value) -> None:
        if low is not None and (self.low is None or low < self.low):
            self.low = low
        if high is not None and (self.high is None or high > self.high):
            self.high = high


class Cells:
    """The buckets of one series."""

    def __init__(self, asked: Question, metric: Metric, width_ms: int | None) -> None:
        """`width_ms` of the roll-ups that it is made of, None where it is made of samples alone."""
        self._asked = asked
        self._metric = metric
        self._is_counter = metric.kind is Kind.COUNTER
        self._starts = asked.starts()
        self._width = asked.bucket_ms or asked.until_ms - asked.since_ms
        self._cells = [_Cell() for _ in self._starts]
        self._whole = _Cell()
        self._scale = 1e9 if self._is_counter and metric.unit == "ns" and asked.agg != "increase" else 1
        self._part_ms = width_ms or self._width
        self._has_sketch = needs_sketch(asked, metric, width_ms)
        self._needs_steps = not self._has_sketch and (
            asked.percentile is not None or (self._is_counter and asked.agg in ("min", "max", "last"))
        )

    def add(
        self,
        c: StoredContainer,
        rolled: Sequence[buckets.Bucket],
        raw: tuple[Sequence[Reading], Sequence[Span], int],
        now_ms: int,
    ) -> None:
        """One container, of one series the earlier ones first: roll-ups, then readings and gaps from a time on."""
        asked, kind, silence_ms = self._asked, self._metric.kind, silence_ms_of(c, self._metric)
        end_ms = now_ms if c.ended_ms is None else max(c.ended_ms, c.last_ms)
        mine = [_Cell() for _ in self._cells]
        for i, (from_ms, to_ms) in enumerate(self._bounds()):
            mine[i].lived_ms = max(0, min(end_ms, to_ms) - max(c.first_ms, from_ms))
        readings, gaps, raw_ms = raw
        fresh = buckets.buckets(
            *(readings, kind, raw_ms, asked.until_ms, self._part_ms, gaps, silence_ms), with_sketch=self._has_sketch
        )
        for bucket in itertools.chain(rolled, fresh):
            mine[(bucket.start_ms - asked.since_ms) // self._width].take(bucket)
        if self._needs_steps:
            self._add_steps(mine, buckets.steps(readings, kind, gaps, silence_ms))
        whole = _Cell()
        for own in mine:
            own.lived_ms = max(own.lived_ms, own.covered_ms)
            whole.take(own)
        for cell, own in zip((*self._cells, self._whole), (*mine, whole), strict=True):
            cell.take(own)
            if (mean := self._mean(own)) is not None:
                cell.sums = (cell.sums or 0) + mean * own.lived_ms

    def _add_steps(self, mine: Sequence[_Cell], steps: Iterable[buckets.Step]) -> None:
        since_ms, until_ms, width = self._asked.since_ms, self._asked.until_ms, self._width
        keeps = self._asked.percentile is not None
        if not keeps:
            for cell in mine:
                cell.last = None  # a counter's own, where its last rate is asked for
        for step in steps:
            low, high = max(step.from_ms, since_ms), min(step.to_ms, until_ms)
            value = step.per_s if self._is_counter else step.value
            while low < high:
                place = (low - since_ms) // width
                until = min(high, since_ms + (place + 1) * width)
                cell = mine[place]
                if keeps:
                    cell.pairs.append((value, until - low))
                else:
                    cell.see(value, value)
                    cell.last = value
                low = until

    def _bounds(self) -> Iterable[tuple[int, int]]:
        return ((start, min(start + self._width, self._asked.until_ms)) for start in self._starts)

    def _mean(self, cell: _Cell) -> float | None:
        if not cell.covered_ms:
            return None
        if self._is_counter:
            return None if cell.increase is None else cell.increase * 1000 / cell.covered_ms
        return cell.total / cell.covered_ms

    def result(self, labels: Mapping[str, str], group: Sequence[StoredContainer]) -> Series:
        value = self._value(self._whole, self._asked.until_ms - self._asked.since_ms)
        shown = () if self._asked.bucket_ms is None else zip(self._cells, self._bounds(), strict=True)
        points = [
            Point(from_ms, self._value(cell, to_ms - from_ms), _coverage(cell), self._state(cell))
            for cell, (from_ms, to_ms) in shown
        ]
        names = list(dict.fromkeys(c.name or c.path for c in group))[:10]
        return Series(labels, names, len(group), value, _coverage(self._whole), points)

    def _value(self, cell: _Cell, width_ms: int) -> float | int | None:
        agg, value = self._asked.agg, None
        if agg == "count":
            return cell.count if cell.lived_ms else None
        if self._has_sketch:
            share = {"min": 0.0, "max": 100.0}.get(agg, self._asked.percentile or 0.0) / 100
            value = None if cell.sketch is None else cell.sketch.quantile(share)
        elif (percent := self._asked.percentile) is not None:
            value = nearest_rank(cell.pairs, percent)
        elif agg == "avg":
            value = self._mean(cell)
        elif agg in ("sum", "rate"):
            value = None if cell.sums is None else cell.sums / width_ms
        else:
            value = {"min": cell.low, "max": cell.high, "last": cell.last, "increase": cell.increase}[agg]
        return value if value is None or self._scale == 1 else value / self._scale

    def _state(self, cell: _Cell) -> str:
        if not cell.lived_ms and not cell.count:
            return "gone"
        if not cell.covered_ms and not cell.count:
            return "unknown"
        if self._is_counter and cell.covered_ms >= cell.lived_ms and cell.increase == 0:
            return "unchanged"
        return "measured" if cell.count else "last_observed"


def _coverage(cell: _Cell) -> float | None:
    return min(1.0, cell.covered_ms / cell.lived_ms) if cell.lived_ms else None


def _plus(a: Value, b: Value) -> Value:
    return b if a is None else a if b is None else a + b


def nearest_rank(pairs: Sequence[tuple[float, int]], percent: float) -> float | None:
    """The least value that was not exceeded for `percent` of the time; None without any. Pairs are (value, weight)."""
    if not pairs:
        return None
    ordered = sorted(pairs)
    wanted = sum(weight for _, weight in ordered) * percent
    passed = 0
    for value, weight in ordered:
        passed += weight
        if passed * 100 >= wanted:
            return value
    return ordered[-1][0]
