"""Rows of a raw table -> a row of its roll-up, by the definition of `pipeline/buckets.py`, a column at a time. Pure; no I/O.

The definition looks at one metric; here all metrics of a row share its times, gaps and closing samples, and what is done for
each value is done by the built-in functions over whole columns: that is what makes a roll-up cost less than the writing did.
A column with holes, or a counter that fell, is done value by value.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import mul, sub
from typing import Any, TypeAlias

import msgspec

from tidegauge.pipeline.buckets import is_gap_between
from tidegauge.pipeline.history import Span
from tidegauge.pipeline.records import MAX_INT, Kind
from tidegauge.pipeline.sketch import Sketch
from tidegauge.sinks.sql.tables_rollup import RolledTable

Row: TypeAlias = Sequence[Any]
"""(ts_ms, container, is closing or instance, values ...)"""
_FIRST = 3
"""Where a row's values begin."""


class _Gauge:
    __slots__ = ("last", "max", "min", "name", "no_count", "no_ms", "sketch", "total")

    def __init__(self, name: str, sketch: Sketch | None) -> None:
        self.name = name
        self.sketch = sketch
        self.total: Any = 0
        self.min: Any = None
        self.max: Any = None
        self.last: Any = None
        self.no_count = 0
        """Rows of the bucket without a value of it."""
        self.no_ms = 0
        """For how much of what the bucket's rows cover this metric is not known."""


class _Counter:
    __slots__ = ("increase", "last", "name", "no_count", "no_ms", "sketch")

    def __init__(self, name: str, sketch: Sketch | None) -> None:
        self.name = name
        self.sketch = sketch
        self.increase: Any = None
        self.last: Any = None
        self.no_count = 0
        self.no_ms = 0


class _Run:
    """Neighbouring rows between which everything is known: their times, and how much of the bucket each span covers."""

    __slots__ = ("count", "covered_ms", "end", "first", "flags", "last", "start", "times", "weights")

    def __init__(self, times: Sequence[int], flags: Sequence[bool], start: int, end: int) -> None:
        self.times = times
        self.flags = flags
        """True for a row that counts as a reading of this bucket, if it has a value."""
        self.start = start
        self.end = end
        count = len(times)
        if times[0] >= start and times[-1] <= end:
            self.weights = list(map(sub, times[1:], times))
        else:
            self.weights = [max(min(b, end) - max(a, start), 0) for a, b in pairwise(times)]
        self.covered_ms = sum(self.weights)
        self.count = sum(flags)
        self.first = next((i for i in range(count) if times[i] >= start or (i + 1 < count and times[i + 1] > start)), count)
        self.last = next((i for i in range(count) if times[i] >= end), count)
        """Rows from `first` until before `last` hold in the bucket or were read in it."""

    def increase(self, column: Sequence[Any]) -> Any:
        """Of a counter that never fell: the shares of the spans at both ends, and what lies between."""
        low, high = bisect_left(self.times, self.start), bisect_right(self.times, self.end) - 1
        if low > high:
            return self.share(high, column[low] - column[high])
        increase = column[high] - column[low]
        if low > 0:
            increase += self.share(low - 1, column[low] - column[low - 1])
        if high + 1 < len(column):
            increase += self.share(high, column[high + 1] - column[high])
        return increase

    def share(self, place: int, increase: Any) -> Any:
        """`buckets.share` of the span that begins at that row."""
        a, whole = self.times[place], self.times[place + 1] - self.times[place]
        low, high = max(self.start - a, 0), min(self.end - a, whole)
        if isinstance(increase, int):
            return increase * high // whole - increase * low // whole
        return increase * (high / whole) - increase * (low / whole)


class Series:
    """One bucket of one container, or of one of its instances, made of rows in the order of time.

    Give first the row in force at its beginning, if any, then its own in as many pieces as wanted, and then the one after it.
    """

    def __init__(self, table: RolledTable, start_ms: int, end_ms: int, silence_ms: int, gaps: Sequence[Span]) -> None:
        self._start, self._end, self._silence_ms = start_ms, end_ms, silence_ms
        self._gaps = sorted(gaps)
        self._has_flags = table.label is None
        self._cells: list[_Gauge | _Counter] = [
            (_Counter if column.metric.kind is Kind.COUNTER else _Gauge)(
                column.metric.name, Sketch() if "sketch" in column.parts else None
            )
            for column in table.columns
        ]
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
        if self._has_flags and any(row[2] for row in rows):
            rows = self._filled(rows, set(ends))
        start, end = self._start, self._end
        flags = [
            i >= fresh and start <= ts_ms < end and not (self._has_flags and row[2])
            for i, (ts_ms, row) in enumerate(zip(times, rows, strict=True))
        ]
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
        self._is_seen = True
        self._count += run.count
        self._covered_ms += run.covered_ms
        columns = list(zip(*rows, strict=True))[_FIRST:]
        size, middle = len(rows), len(rows) // 2
        for cell, column in zip(self._cells, columns, strict=True):
            one = column[0]
            is_constant = column[-1] == one and column[middle] == one and column.count(one) == size
            if is_constant and one is None:
                cell.no_count += run.count
                cell.no_ms += run.covered_ms
                continue
            try:
                if isinstance(cell, _Gauge):
                    _take_gauge(cell, run, column, is_constant)
                else:
                    _take_counter(cell, run, column, is_constant)
            except TypeError:  # None among the values
                _take_each(cell, run, column)

    def values(self) -> tuple[Any, ...] | None:
        """The columns `RolledTable.value_names`; None if nothing is known of it."""
        if not self._is_seen:
            return None
        partial: dict[str, tuple[int, int]] = {}
        values: list[Any] = []
        for cell in self._cells:
            covered_ms = self._covered_ms - cell.no_ms
            if cell.last is None:
                values += (None, None) if isinstance(cell, _Counter) else (None, None, None, None)
            else:
                if cell.no_count or cell.no_ms:
                    partial[cell.name] = (self._count - cell.no_count, covered_ms)
                if isinstance(cell, _Counter):
                    values += (_fitting(cell.increase), cell.last)
                else:
                    values += (cell.total / covered_ms if covered_ms else None, cell.min, cell.max, cell.last)
            if cell.sketch is not None:
                values.append(cell.sketch.encode() if cell.sketch else None)
        return (self._count, self._covered_ms, msgspec.json.encode(partial).decode() if partial else None, *values)


def _take_gauge(cell: _Gauge, run: _Run, column: tuple[Any, ...], is_constant: bool) -> None:
    """TypeError, and nothing changed, where the column has holes."""
    if is_constant:
        low = high = last = column[0]
        cell.total += low * run.covered_ms
        if cell.sketch is not None and run.covered_ms:
            cell.sketch.add(low, run.covered_ms)
    else:
        total = sum(map(mul, column, run.weights))
        seen = column[run.first : run.last]
        low, high, last = min(seen), max(seen), seen[-1]
        if None in (low, column[-1]):
            raise TypeError
        cell.total += total
        if cell.sketch is not None:
            for value, weight in zip(column, run.weights, strict=False):
                if weight:
                    cell.sketch.add(value, weight)
    cell.last = last
    if cell.min is None or low < cell.min:
        cell.min = low
    if cell.max is None or high > cell.max:
        cell.max = high


def _take_counter(cell: _Counter, run: _Run, column: tuple[Any, ...], is_constant: bool) -> None:
    """TypeError, and nothing changed, where the column has holes; a counter that fell is taken value by value."""
    if not is_constant and sorted(column) != list(column):
        _take_each(cell, run, column)
        return
    if run.covered_ms:
        if is_constant:
            increase = 0 * column[0]
        else:
            increase = run.increase(column)
        cell.increase = increase if cell.increase is None else cell.increase + increase
        if cell.sketch is not None:
            if is_constant:
                cell.sketch.add(0, run.covered_ms)
            else:
                _sketch_rates(cell.sketch, run, column)
    cell.last = column[run.last - 1]


def _sketch_rates(sketch: Sketch, run: _Run, column: tuple[Any, ...]) -> None:
    times = run.times
    for i, weight in enumerate(run.weights):
        if weight:
            sketch.add((column[i + 1] - column[i]) * 1000 / (times[i + 1] - times[i]), weight)


def _take_each(cell: _Gauge | _Counter, run: _Run, column: tuple[Any, ...]) -> None:
    """As the definition has it, one value after the other."""
    covered_ms = count = 0
    for i, value in enumerate(column):
        if value is None:
            continue
        weight = run.weights[i] if i < len(run.weights) else 0
        is_read = run.start <= run.times[i] < run.end
        count += run.flags[i]
        if isinstance(cell, _Counter):
            after = column[i + 1] if weight else None
            if after is None or after < value:
                weight = 0
            else:
                increase = run.share(i, after - value)
                cell.increase = increase if cell.increase is None else cell.increase + increase
                if cell.sketch is not None:
                    cell.sketch.add((after - value) * 1000 / (run.times[i + 1] - run.times[i]), weight)
        elif weight or is_read:
            cell.total += value * weight
            if cell.min is None or value < cell.min:
                cell.min = value
            if cell.max is None or value > cell.max:
                cell.max = value
            if cell.sketch is not None and weight:
                cell.sketch.add(value, weight)
        covered_ms += weight
        if weight or is_read:
            cell.last = value
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
    count, covered_ms = sum(row[0] for row in rows), sum(row[1] for row in rows)
    columns = iter(list(zip(*rows, strict=True))[3:])
    partial: dict[str, tuple[int, int]] = {}
    values: list[Any] = []
    for column in table.columns:
        own = {part: next(columns) for part in column.parts}
        last = next((v for v in reversed(own["last"]) if v is not None), None)
        covers = [
            (0, 0) if v is None else p.get(column.metric.name, (row[0], row[1]))
            for v, p, row in zip(own["last"], partials, rows, strict=True)
        ]
        of_it = (sum(c for c, _ in covers), sum(ms for _, ms in covers))
        if last is not None and of_it != (count, covered_ms):
            partial[column.metric.name] = of_it
        for part in column.parts:
            known = [v for v in own[part] if v is not None]
            if not known:
                values.append(None)
            elif part == "avg":
                total = sum(v * ms for v, (_, ms) in zip(own[part], covers, strict=True) if v is not None)
                values.append(total / of_it[1])
            elif part == "last":
                values.append(last)
            elif part == "sketch":
                sketch = Sketch()
                for encoded in known:
                    sketch.merge(Sketch.decode(encoded))
                values.append(sketch.encode())
            elif part == "increase":
                values.append(_fitting(sum(known)))
            else:
                values.append(min(known) if part == "min" else max(known))
    return (count, covered_ms, msgspec.json.encode(partial).decode() if partial else None, *values)
