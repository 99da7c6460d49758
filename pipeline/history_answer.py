"""Answers to questions about history: the one computation for all stores, over what a HistoryReader fetches. No I/O of its own.

A counter's values are its rates (in seconds a second where it counts ns: of CPU time, cores), a gauge's its values; both hold
for a time, and everything here is weighted by it (`buckets`). Of one series in one bucket:

- `avg`: the mean over the known time of all its containers; `rate` and `sum`: the containers' means added up, each for the part
  of the bucket in which it lived, so that an unknown time counts as the known one of the same container and bucket;
- `increase`: what is known of the increases, added up; `count`: readings;
- `min`, `max`: the least and the greatest value of any container; `last`: the newest one;
- percentiles: the least value that was not exceeded for so much of the known time of all containers together (nearest rank,
  exact over samples).

Containers are nested. Where values are added up, one that lies below another of the same series that has values is left out.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from tidegauge.pipeline import buckets
from tidegauge.pipeline.history import Bounds, ContainerKey, HistoryReader, Reading, Span, StoredContainer
from tidegauge.pipeline.history_query import MAX_SERIES, MAX_VALUES, BadQuestion, Question, group_of
from tidegauge.pipeline.records import Kind, Metric, Value

_ADDED = ("sum", "rate", "increase", "count")
_CORES = ("cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "percpu_usage_ns")
SLOW_SILENCE_MS = 600_000
"""Beyond the silence of samples: what slow collectors read is in some samples only, and may be that much older."""


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


class Answer(msgspec.Struct, frozen=True):
    """What `series` shows, and how it came about."""

    store: str
    metric: str
    agg: str
    unit: str
    since_ms: int
    until_ms: int
    """The span that was looked at: the beginning is that of a bucket."""
    bucket_ms: int | None
    group: Sequence[str]
    resolution: str
    """`raw`, `5m` or `1h`; with roll-ups, the newest part may be of samples."""
    method: str
    rows: int
    """Readings or roll-ups that it was computed from."""
    found: int
    """Series there are; `series` has less with `top`."""
    series: Sequence[Series]


def metric_named(reader: HistoryReader, name: str) -> Metric:
    """BadQuestion if the store knows none of the name."""
    known = {m.name: m for m in reader.metrics()}
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise BadQuestion(f"metric: there is no {name[:100]!r}{hint}; /api/v1/history/metrics lists them")
    return known[name]


def unit_of(metric: Metric, agg: str) -> str:
    """What the values of an answer are in: `cores`, `bytes/s`, `bytes` ..."""
    if agg == "count":
        return "readings"
    if metric.kind is not Kind.COUNTER or agg == "increase":
        return metric.unit
    if metric.unit == "ns":
        return "cores" if metric.name in _CORES else "s/s"
    return f"{metric.unit}/s"


def answer(reader: HistoryReader, asked: Question, bounds: Bounds, now_ms: int, store: str = "") -> Answer:
    """Raises BadQuestion, TooMuch, StoreError. Any thread; takes as long as the store and the rows take, see `bounds`."""
    metric = metric_named(reader, asked.metric)
    asked.check(metric)
    asked = asked.aligned()
    chosen = [c for c in reader.containers(asked.since_ms, asked.until_ms) if asked.select.takes(c)]
    grouped: dict[tuple[tuple[str, str], ...], list[StoredContainer]] = {}
    for c in chosen:
        grouped.setdefault(group_of(c, asked.group), []).append(c)
    found, rows = len(grouped), 0
    if found > MAX_SERIES:
        raise BadQuestion(f"the question has {found} series, more than {MAX_SERIES}: choose containers, or group them")
    if asked.top is not None and asked.top < found and asked.bucket_ms is not None:
        whole = msgspec.structs.replace(asked, bucket_ms=None)
        first, rows = _series(reader, whole, metric, grouped, bounds, now_ms)
        grouped = {key: grouped[key] for key, _ in _greatest(first, asked.top)}
    width = 1 if asked.bucket_ms is None else len(asked.starts())
    if len(grouped) * width > MAX_VALUES:
        raise BadQuestion(
            f"the question has {len(grouped)} series of {width} buckets, more than {MAX_VALUES} values: "
            "choose longer buckets, fewer containers, or top"
        )
    made, more = _series(reader, asked, metric, grouped, bounds, now_ms)
    if asked.top is not None:
        made = _greatest(made, asked.top)
    return Answer(
        store=store,
        metric=metric.name,
        agg=asked.agg,
        unit=unit_of(metric, asked.agg),
        since_ms=asked.since_ms,
        until_ms=asked.until_ms,
        bucket_ms=asked.bucket_ms,
        group=asked.group,
        resolution="raw",
        method=_method(asked),
        rows=rows + more,
        found=found,
        series=[series for _, series in made],
    )


_Made = list[tuple[tuple[tuple[str, str], ...], Series]]


def _greatest(made: _Made, top: int) -> _Made:
    return sorted(made, key=lambda pair: (pair[1].value is None, -(pair[1].value or 0)))[:top]


def _method(asked: Question) -> str:
    if asked.percentile is not None:
        return "nearest rank, exact, weighted by time"
    return "exact" if asked.agg in ("min", "max", "last", "count", "increase") else "weighted by time"


def _series(
    reader: HistoryReader,
    asked: Question,
    metric: Metric,
    grouped: Mapping[tuple[tuple[str, str], ...], Sequence[StoredContainer]],
    bounds: Bounds,
    now_ms: int,
) -> tuple[_Made, int]:
    """A series a group, and how many readings were read."""
    containers = [c for group in grouped.values() for c in group]
    if not containers:
        return [], 0
    slack_ms = max(_silence_ms(c, metric) for c in containers)
    span = (asked.since_ms - slack_ms, asked.until_ms + slack_ms)
    fetched = reader.series(containers, metric, *span, bounds)
    gaps = reader.gaps(containers, *span)
    rows = sum(len(readings) for own in fetched.values() for readings in own.values())
    out: _Made = []
    for key, group in grouped.items():
        read = {c.key: _readings(fetched.get(c.key, {}), asked.instance, metric) for c in group}
        if asked.agg in _ADDED:
            group = _outermost(group, read)
        series = _Cells(asked, metric)
        for c in group:
            bounds.check(0)
            series.add(c, read[c.key], gaps.get(c.key, ()), now_ms)
        out.append((key, series.result(dict(key), group)))
    return out, rows


def _silence_ms(c: StoredContainer, metric: Metric) -> int:
    """Of core tables the samples' own; others are of slow collectors, in part."""
    return c.silence_ms if metric.table in _EACH_SAMPLE else c.silence_ms + SLOW_SILENCE_MS


_EACH_SAMPLE = ("sample", "sample_host", "network", "disk_io", "percpu", "host_cpu", "host_disk")


def _readings(own: Mapping[str, Sequence[Reading]], instance: str | None, metric: Metric) -> Sequence[Reading]:
    """Of a container: the one series there is, or the sum of those that fit."""
    chosen = [r for name, r in own.items() if instance is None or name == instance or fnmatchcase(name, instance)]
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


def _outermost(group: Sequence[StoredContainer], read: Mapping[ContainerKey, Sequence[Reading]]) -> list[StoredContainer]:
    """Without those below another of the group that has values: what these use is in that one's values already."""
    paths = {(c.host, c.path) for c in group if any(r[2] is not None for r in read[c.key])}

    def is_below(c: StoredContainer) -> bool:
        path = c.path
        while path != "/":
            path = path.rpartition("/")[0] or "/"
            if (c.host, path) in paths:
                return True
        return False

    return [c for c in group if not is_below(c)]


class _Cell:
    """What is known of a series in one bucket, gathered over its containers."""

    __slots__ = ("count", "covered_ms", "high", "increase", "last", "lived_ms", "low", "pairs", "sums", "total")

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

    def take(self, other: "_Cell") -> None:
        """As if the other's had been gathered here; of a later time."""
        self.lived_ms += other.lived_ms
        self.covered_ms += other.covered_ms
        self.count += other.count
        self.total += other.total
        self.increase = _plus(self.increase, other.increase)
        self.pairs += other.pairs
        self.see(other.low, other.high)
        if other.last is not None:
            self.last = other.last

    def see(self, low: Value, high: Value) -> None:
        if low is not None and (self.low is None or low < self.low):
            self.low = low
        if high is not None and (self.high is None or high > self.high):
            self.high = high


class _Cells:
    """The buckets of one series."""

    def __init__(self, asked: Question, metric: Metric) -> None:
        self._asked = asked
        self._metric = metric
        self._is_counter = metric.kind is Kind.COUNTER
        self._starts = asked.starts()
        self._width = asked.bucket_ms or asked.until_ms - asked.since_ms
        self._cells = [_Cell() for _ in self._starts]
        self._whole = _Cell()
        self._scale = 1e9 if self._is_counter and metric.unit == "ns" and asked.agg != "increase" else 1
        self._needs_steps = asked.percentile is not None or (self._is_counter and asked.agg in ("min", "max", "last"))

    def add(self, c: StoredContainer, readings: Sequence[Reading], gaps: Sequence[Span], now_ms: int) -> None:
        """One container; of one series the earlier ones first."""
        asked, silence_ms = self._asked, _silence_ms(c, self._metric)
        span = (asked.since_ms, asked.until_ms)
        lived = (max(c.first_ms, span[0]), min(now_ms if c.ended_ms is None else max(c.ended_ms, c.last_ms), span[1]))
        mine = [_Cell() for _ in self._cells]
        for i, (from_ms, to_ms) in enumerate(self._bounds()):
            mine[i].lived_ms = max(0, min(lived[1], to_ms) - max(lived[0], from_ms))
        for bucket in buckets.buckets(readings, self._metric.kind, *span, self._width, gaps, silence_ms):
            cell = mine[(bucket.start_ms - asked.since_ms) // self._width]
            cell.covered_ms, cell.count, cell.increase = bucket.covered_ms, bucket.count, bucket.increase
            cell.lived_ms = max(cell.lived_ms, bucket.covered_ms)
            if not self._is_counter:
                cell.total, cell.last = bucket.total, bucket.last
                cell.see(bucket.min, bucket.max)
        if self._needs_steps:
            self._add_steps(mine, buckets.steps(readings, self._metric.kind, gaps, silence_ms))
        whole = _Cell()
        for own in mine:
            whole.take(own)
        for cell, own in zip((*self._cells, self._whole), (*mine, whole), strict=True):
            cell.take(own)
            if (mean := self._mean(own)) is not None:
                cell.sums = (cell.sums or 0) + mean * own.lived_ms

    def _add_steps(self, mine: Sequence[_Cell], steps: Iterable[buckets.Step]) -> None:
        since_ms, until_ms, width = self._asked.since_ms, self._asked.until_ms, self._width
        keeps = self._asked.percentile is not None
        for step in steps:
            low, high = max(step.from_ms, since_ms), min(step.to_ms, until_ms)
            value = step.per_s if self._is_counter else step.value
            while low < high:
                place = (low - since_ms) // width
                until = min(high, since_ms + (place + 1) * width)
                cell = mine[place]
                if keeps:
                    cell.pairs.append((value, until - low))
                elif self._is_counter:
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
        points = [
            Point(from_ms, self._value(cell, to_ms - from_ms), _coverage(cell), self._state(cell))
            for cell, (from_ms, to_ms) in zip(self._cells, self._bounds(), strict=True)
        ]
        names = list(dict.fromkeys(c.name or c.path for c in group))[:10]
        shown = points if self._asked.bucket_ms is not None else []
        return Series(labels, names, len(group), value, _coverage(self._whole), shown)

    def _value(self, cell: _Cell, width_ms: int) -> float | int | None:
        agg, value = self._asked.agg, None
        if agg == "count":
            return cell.count if cell.lived_ms else None
        if (percent := self._asked.percentile) is not None:
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
