"""Rows of a raw table -> a row of its roll-up, by the definition of `pipeline/buckets.py`, a column at a time. Pure; no I/O.

The definition looks at one metric; here all metrics of a row share its times, gaps and closing samples, and what is done for
each value is done by the built-in functions over whole columns: that is what makes a roll-up cost less than the writing did.
A column with holes, or a counter that fell, is done value by value.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import mul, sub
from typing import Any, NamedTuple, TypeAlias

import msgspec

from tidegauge.pipeline.buckets import is_gap_between
from tidegauge.pipeline.history import Span
from tidegauge.pipeline.records import MAX_INT, Kind
from tidegauge.pipeline.sketch import Sketch
from tidegauge.sinks.sql.tables_rollup import HEAD, RolledTable

Row: TypeAlias = Sequence[Any]
"""(ts_ms, container, is closing or instance, values ...)"""
_FIRST = 3
"""Where a row's values begin."""
_Span: TypeAlias = tuple[int, int, int]
"""From where to where a span lies in the bucket, counted from its begin, and how long it is: ms."""


class _Run:
    """Neighbouring rows between which everything is known: their times, and how much of the bucket each span covers."""

    __slots__ = ("before", "beyond", "count", "covered_ms", "first", "flags", "high", "last", "low", "times", "weights")

    def __init__(self, times: Sequence[int], flags: Sequence[bool], start: int, end: int) -> None:
        self.times = times
        self.flags = flags
        """True for a row that counts as a reading of this bucket, if it has a value."""
        if times[0] >= start and times[-1] <= end:
            self.weights = list(map(sub, times[1:], times))
        else:
            self.weights = [max(min(b, end) - max(a, start), 0) for a, b in pairwise(times)]
        self.covered_ms = sum(self.weights)
        self.count = sum(flags)
        self.low, self.high = bisect_left(times, start), bisect_right(times, end) - 1
        """Between these rows a span lies in the bucket as a whole."""
        after = bisect_right(times, start)
        self.first = max(after - 1, 0) if after < len(times) or times[-1] == start else after
        self.last = bisect_left(times, end)
        """Rows from `first` until before `last` hold in the bucket or were read in it."""
        self.before = self._span(self.low - 1, start, end) if 0 < self.low < len(times) else None
        self.beyond = self._span(self.high, start, end) if 0 <= self.high < len(times) - 1 else None

    def _span(self, place: int, start: int, end: int) -> _Span:
        a, whole = self.times[place], self.times[place + 1] - self.times[place]
        return max(start - a, 0), min(end - a, whole), whole

    def increase(self, column: Sequence[Any]) -> Any:
        """Of a counter that never fell: the shares of the spans at both ends, and what lies between."""
        low, high = self.low, self.high
        if low > high:
            return _share(self.before, column[low] - column[high])
        increase = column[high] - column[low]
        if low > 0:
            increase += _share(self.before, column[low] - column[low - 1])
        if high + 1 < len(column):
            increase += _share(self.beyond, column[high + 1] - column[high])
        return increase

    def increase_at(self, place: int, column: Sequence[Any]) -> Any:
        """Of the span that begins at that row."""
        increase = column[place + 1] - column[place]
        if self.low <= place < self.high:
            return increase
        return _share(self.before if place < self.low else self.beyond, increase)


def _share(span: _Span | None, increase: Any) -> Any:
    """`buckets.share` of a span that lies partly in the bucket."""
    if not increase or span is None:
        return increase
    low, high, whole = span
    if isinstance(increase, int):
        return increase * high // whole - increase * low // whole
    return increase * (high / whole) - increase * (low / whole)


class _Gauge:
    """What is known of one column; made when its first value comes."""

    __slots__ = ("last", "max", "min", "no_count", "no_ms", "sketch", "total")

    def __init__(self, sketch: Sketch | None, no_count: int, no_ms: int) -> None:
        self.sketch = sketch
        self.total: Any = 0
        self.min: Any = None
        self.max: Any = None
        self.last: Any = None
        self.no_count = no_count
        """Rows of the bucket without a value of it."""
        self.no_ms = no_ms
        """For how much of what the bucket's rows cover this metric is not known."""

    def take_same(self, run: _Run, value: Any) -> None:
        """A column that is one value."""
        self.total += value * run.covered_ms
        if self.sketch is not None and run.covered_ms:
            self.sketch.add(value, run.covered_ms)
        self._see(value, value, value)

    def take(self, run: _Run, column: tuple[Any, ...]) -> None:
        """TypeError, and nothing changed, where the column has holes."""
        total = sum(map(mul, column, run.weights))
        seen = column[run.first : run.last]
        low, high = min(seen), max(seen)
        if None in (low, column[-1]):
            raise TypeError
        self.total += total
        if self.sketch is not None:
            for value, weight in zip(column, run.weights, strict=False):
                if weight:
                    self.sketch.add(value, weight)
        self._see(low, high, seen[-1])

    def take_one(self, run: _Run, column: tuple[Any, ...], place: int, weight: int) -> int:
        """A value that holds for `weight` ms. Returns for how long it is known."""
        value = column[place]
        self.total += value * weight
        if self.sketch is not None and weight:
            self.sketch.add(value, weight)
        self._see(value, value, value)
        return weight

    def _see(self, low: Any, high: Any, last: Any) -> None:
        self.last = last
        if self.min is None or low < self.min:
            self.min = low
        if self.max is None or high > self.max:
            self.max = high

    def values(self, covered_ms: int) -> tuple[Any, ...]:
        return self.total / covered_ms if covered_ms else None, self.min, self.max, self.last


class _Counter:
    __slots__ = ("increase", "last", "no_count", "no_ms", "sketch")

    def __init__(self, sketch: Sketch | None, no_count: int, no_ms: int) -> None:
        self.sketch = sketch
        self.increase: Any = None
        self.last: Any = None
        self.no_count = no_count
        self.no_ms = no_ms

    def take_same(self, run: _Run, value: Any) -> None:
        if run.covered_ms:
            self._add(0 * value)
            if self.sketch is not None:
                self.sketch.add(0, run.covered_ms)
        self.last = value

    def take(self, run: _Run, column: tuple[Any, ...]) -> None:
        """TypeError, and nothing changed, where the column has holes."""
        if sorted(column) != list(column):
            _take_each(self, run, column)
            return
        if run.covered_ms:
            self._add(run.increase(column))
            if self.sketch is not None:
                times = run.times
                for i, weight in enumerate(run.weights):
                    if weight:
                        self.sketch.add((column[i + 1] - column[i]) * 1000 / (times[i + 1] - times[i]), weight)
        self.last = column[run.last - 1]

    def take_one(self, run: _Run, column: tuple[Any, ...], place: int, weight: int) -> int:
        value = self.last = column[place]
        after = column[place + 1] if weight else None
        if after is None or after < value:
            return 0
        self._add(run.increase_at(place, column))
        if self.sketch is not None:
            self.sketch.add((after - value) * 1000 / (run.times[place + 1] - run.times[place]), weight)
        return weight

    def _add(self, increase: Any) -> None:
        self.increase = increase if self.increase is None else self.increase + increase

    def values(self, covered_ms: int) -> tuple[Any, ...]:
        return _fitting(self.increase), self.last


class Shape(NamedTuple):
    """Of a roll-up's rows: of each column its metric's name, what is made of it, whether with a sketch, and nothing known."""

    has_flags: bool
    """True where the third value of a raw row says that it is a closing sample."""
    cells: Sequence[tuple[str, type[_Gauge] | type[_Counter], bool, tuple[None, ...]]]


def shape_of(table: RolledTable) -> Shape:
    cells = [
        (c.metric.name, _Counter if c.metric.kind is Kind.COUNTER else _Gauge, "sketch" in c.parts, (None,) * len(c.parts))
        for c in table.columns
    ]
    return Shape(table.label is None, cells)


class Series:
    """One bucket of one container, or of one of its instances, made of rows in the order of time.

    Give first the row in force at its beginning, if any, then its own in as many pieces as wanted, and then the one after it.
    """

    def __init__(self, shape: Shape, start_ms: int, end_ms: int, silence_ms: int, gaps: Sequence[Span]) -> None:
        self._start, self._end, self._silence_ms = start_ms, end_ms, silence_ms
        self._gaps = sorted(gaps)
        self._shape = shape
        self._cells: list[_Gauge | _Counter | None] = [None] * len(shape.cells)
        self._before: Row | None = None
        self._count = 0
        self._covered_ms = 0
        self._is_seen = False

    def feed(self, rows: Sequence[Row]) -> None:
        """The next rows, each later than the one before."""
        fresh = 0
        if self._before is not None:
            rows = [self._before, *rows]
            fresh = 1
        times = [row[0] for row in rows]
        ends = self._breaks(times)
        has_closing = self._shape.has_flags and any(row[2] for row in rows)
        if has_closing:
            rows = self._filled(rows, set(ends))
        start, end = self._start, self._end
        flags = [start <= ts_ms < end for ts_ms in times]
        if has_closing:
            flags = [flag and not row[2] for flag, row in zip(flags, rows, strict=True)]
        if fresh:
            flags[0] = False
        begin = 0
        for stop in (*ends, len(rows)):
            if begin < stop:
                run = _Run(times[begin:stop], flags[begin:stop], start, end)
                if run.first < run.last:
                    self._take(run, rows[begin:stop])
            begin = stop
        self._before = rows[-1]

    def _breaks(self, times: Sequence[int]) -> list[int]:
        """Places of rows that do not follow on the one before: the span between is unknown."""
        silence_ms, gaps = self._silence_ms, self._gaps
        lengths = list(map(sub, times[1:], times))
        if not gaps and max(lengths, default=0) <= silence_ms:
            return []
        return [
            i
            for i, length in enumerate(lengths, 1)
            if length > silence_ms or (gaps and is_gap_between(times[i - 1], times[i], gaps))
        ]

    @staticmethod
    def _filled(rows: Sequence[Row], breaks: set[int]) -> list[Row]:
        """With what closing samples carry, in place of what was not read in them."""
        out: list[Row] = []
        for i, row in enumerate(rows):
            if row[2] and out and i not in breaks:
                row = tuple(b if a is None else a for a, b in zip(row, out[-1], strict=True))
            out.append(row)
        return out

    def _take(self, run: _Run, rows: Sequence[Row]) -> None:
        columns = list(zip(*rows, strict=True))[_FIRST:]
        cells, size, middle = self._cells, len(rows), len(rows) // 2
        for place, column in enumerate(columns):
            cell, one = cells[place], column[0]
            is_same = column[-1] == one and column[middle] == one and column.count(one) == size
            if is_same and one is None:
                if cell is not None:
                    cell.no_count += run.count
                    cell.no_ms += run.covered_ms
                continue
            if cell is None:
                _, kind, has_sketch, _ = self._shape.cells[place]
                cell = cells[place] = kind(Sketch() if has_sketch else None, self._count, self._covered_ms)
            try:
                if is_same:
                    cell.take_same(run, one)
                else:
                    cell.take(run, column)
            except TypeError:  # None among the values
                _take_each(cell, run, column)
        self._is_seen = True
        self._count += run.count
        self._covered_ms += run.covered_ms

    def values(self) -> tuple[Any, ...] | None:
        """The columns `RolledTable.value_names`; None if nothing is known of it."""
        if not self._is_seen:
            return None
        partial: dict[str, tuple[int, int]] = {}
        values: list[Any] = []
        for cell, (name, _, _, nothing) in zip(self._cells, self._shape.cells, strict=True):
            if cell is None or cell.last is None:
                values += nothing
                continue
            covered_ms = self._covered_ms - cell.no_ms
            if cell.no_count or cell.no_ms:
                partial[name] = (self._count - cell.no_count, covered_ms)
            values += cell.values(covered_ms)
            if cell.sketch is not None:
                values.append(cell.sketch.encode() if cell.sketch else None)
        return (self._count, self._covered_ms, msgspec.json.encode(partial).decode() if partial else None, *values)


def _take_each(cell: _Gauge | _Counter, run: _Run, column: tuple[Any, ...]) -> None:
    """As the definition has it, one value after the other."""
    covered_ms = count = 0
    weights = (*run.weights, 0)
    for place, value in enumerate(column):
        if value is None:
            continue
        count += run.flags[place]
        if run.first <= place < run.last:
            covered_ms += cell.take_one(run, column, place, weights[place])
    cell.no_count += run.count - count
    cell.no_ms += run.covered_ms - covered_ms


def _fitting(increase: Any) -> Any:
    """As a column can hold it: a counter that falls and rises again and again could pass 64 bits."""
    return MAX_INT if isinstance(increase, int) and increase > MAX_INT else increase


_PARTIAL = msgspec.json.Decoder(dict[str, tuple[int, int]])


def partial_of(text: str | None) -> dict[str, tuple[int, int]]:
    """(count, covered_ms) of the metrics of a row that are known for less of it than the row is."""
    return _PARTIAL.decode(text) if text else {}


def merged(table: RolledTable, rows: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    """One roll-up row's values of several neighbouring ones', in the order of time; of hours, of their 5 minutes."""
    rows = list(rows)
    partials = [partial_of(row[2]) for row in rows]
    has_partial = any(partials)
    columns = list(zip(*rows, strict=True))
    counts, covered = columns[0], columns[1]
    whole = (sum(counts), sum(covered))
    partial: dict[str, tuple[int, int]] = {}
    values: list[Any] = []
    at = len(HEAD)
    for column in table.columns:
        own = dict(zip(column.parts, columns[at : at + len(column.parts)], strict=True))
        at += len(column.parts)
        lasts = own["last"]
        has_holes = None in lasts
        if has_holes and lasts.count(None) == len(lasts):
            values += (None,) * len(own)
            continue
        of_it, covers = whole, covered
        if has_holes or has_partial:
            parts = [
                (0, 0) if v is None else p.get(column.metric.name, head)
                for v, p, head in zip(lasts, partials, zip(counts, covered, strict=True), strict=True)
            ]
            covers = tuple(ms for _, ms in parts)
            of_it = (sum(c for c, _ in parts), sum(covers))
            if of_it != whole:
                partial[column.metric.name] = of_it
        for part, given in own.items():
            known = [v for v in given if v is not None] if None in given else given
            if not known:
                values.append(None)
            elif part == "avg":
                values.append(sum(v * ms for v, ms in zip(given, covers, strict=True) if v is not None) / of_it[1])
            elif part == "last":
                values.append(known[-1])
            elif part == "sketch":
                sketch = Sketch()
                for encoded in known:
                    sketch.merge(Sketch.decode(encoded))
                values.append(sketch.encode())
            elif part == "increase":
                values.append(_fitting(sum(known)))
            else:
                values.append(min(known) if part == "min" else max(known))
    return (*whole, msgspec.json.encode(partial).decode() if partial else None, *values)
