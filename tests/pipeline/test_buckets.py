"""Steps and buckets, against a model that looks at every millisecond, and against `rates`."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.buckets import State, StateSpan, Step, buckets, share, states, steps
from tidegauge.pipeline.history import Reading, Span
from tidegauge.pipeline.rates import Point, rates
from tidegauge.pipeline.records import Gap, Kind, Value
from tidegauge.pipeline.sketch import Sketch

GAUGE, COUNTER = Kind.GAUGE, Kind.COUNTER

VALUES: st.SearchStrategy[Value] = st.none() | st.integers(0, 50)
READINGS = st.lists(st.tuples(st.integers(0, 80), st.booleans(), VALUES), max_size=20).map(
    lambda rows: sorted(rows, key=lambda r: r[0])
)
GAPS = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 20)).map(lambda g: (g[0], g[0] + g[1])), max_size=3)
SILENCE = st.none() | st.integers(1, 30)
KINDS = st.sampled_from([GAUGE, COUNTER])


def first_of_each_time(readings: Sequence[Reading]) -> list[Reading]:
    return list({r[0]: r for r in reversed(readings)}.values())[::-1]


def is_known(a: int, b: int, gaps: Sequence[Span], silence_ms: int | None) -> bool:
    return (silence_ms is None or b - a <= silence_ms) and not any(a < to and start < b for start, to in gaps)


def filled(readings: Sequence[Reading], gaps: Sequence[Span], silence_ms: int | None) -> list[Reading]:
    """With the values that closing samples carry."""
    out: list[Reading] = []
    for ts, is_closing, value in first_of_each_time(readings):
        if value is None and is_closing and out and is_known(out[-1][0], ts, gaps, silence_ms):
            value = out[-1][2]
        out.append((ts, is_closing, value))
    return out


def held(readings: Sequence[Reading], at_ms: int, gaps: Sequence[Span], silence_ms: int | None) -> Value:
    """What a gauge is at one millisecond, asked backwards."""
    before = [r for r in filled(readings, gaps, silence_ms) if r[0] <= at_ms]
    after = [r for r in readings if r[0] > at_ms]
    if not before or not after or not is_known(before[-1][0], after[0][0], gaps, silence_ms):
        return None
    return before[-1][2]


@given(READINGS, GAPS, SILENCE, st.integers(0, 40), st.integers(1, 60), st.integers(1, 30))
def test_gauge_buckets_are_what_every_millisecond_says(
    readings: list[Reading], gaps: list[Span], silence_ms: int | None, start: int, length: int, width: int
) -> None:
    end = start + length
    found = {b.start_ms: b for b in buckets(readings, GAUGE, start, end, width, gaps, silence_ms, with_sketch=True)}
    for low in range(start, end, width):
        high = min(low + width, end)
        values = [v for ms in range(low, high) if (v := held(readings, ms, gaps, silence_ms)) is not None]
        read = [r for r in first_of_each_time(readings) if low <= r[0] < high and r[2] is not None]
        if not values and not read:
            assert low not in found
            continue
        bucket = found.pop(low)
        seen = [*values, *(r[2] for r in read if r[2] is not None)]
        assert (bucket.end_ms, bucket.covered_ms, bucket.total) == (high, len(values), sum(values))
        assert bucket.avg == (sum(values) / len(values) if values else None)
        assert (bucket.min, bucket.max) == (min(seen), max(seen))
        assert bucket.count == sum(not r[1] for r in read)
        assert bucket.last == (read[-1][2] if read else values[-1])
        model = Sketch()
        for v in values:
            model.add(v)
        assert bucket.sketch == model
    assert not found


@given(READINGS, GAPS, SILENCE)
def test_steps_of_a_counter_are_its_rates(readings: list[Reading], gaps: list[Span], silence_ms: int | None) -> None:
    records = [Gap("source", a, b, "stall") for a, b in gaps]
    points = [Point(ts, value, 0, is_closing) for ts, is_closing, value in readings]
    found = [(s.from_ms, s.to_ms, s.increase) for s in steps(readings, COUNTER, gaps, silence_ms)]
    assert found == [(r.from_ms, r.to_ms, r.increase) for r in rates(points, records, silence_ms)]


@given(READINGS, GAPS, SILENCE, st.integers(1, 30))
def test_increases_of_buckets_add_up_and_go_by_time(
    readings: list[Reading], gaps: list[Span], silence_ms: int | None, width: int
) -> None:
    found = buckets(readings, COUNTER, 0, 120, width, gaps, silence_ms)
    known = list(steps(readings, COUNTER, gaps, silence_ms))
    assert sum(b.increase or 0 for b in found) == sum(s.increase for s in known)
    assert sum(b.covered_ms for b in found) == sum(s.to_ms - s.from_ms for s in known)
    for bucket in found:
        by_time = sum(s.per_s / 1000 * max(0, min(s.to_ms, bucket.end_ms) - max(s.from_ms, bucket.start_ms)) for s in known)
        touching = sum(s.from_ms < bucket.end_ms and bucket.start_ms < s.to_ms for s in known)
        assert abs((bucket.increase or 0) - by_time) <= touching, "a unit for each step cut"
        assert (bucket.increase is None) == (touching == 0)
        assert bucket.avg is None


@given(READINGS, KINDS, GAPS, SILENCE, st.integers(1, 10), st.integers(1, 4))
def test_wide_buckets_are_sums_of_narrow_ones(
    readings: list[Reading], kind: Kind, gaps: list[Span], silence_ms: int | None, width: int, times: int
) -> None:
    narrow = buckets(readings, kind, 0, 120, width, gaps, silence_ms, with_sketch=True)
    for wide in buckets(readings, kind, 0, 120, width * times, gaps, silence_ms, with_sketch=True):
        parts = [b for b in narrow if wide.start_ms <= b.start_ms < wide.end_ms]
        assert wide.count == sum(b.count for b in parts)
        assert wide.covered_ms == sum(b.covered_ms for b in parts)
        assert wide.total == sum(b.total for b in parts)
        assert (wide.increase or 0) == sum(b.increase or 0 for b in parts)
        assert wide.last == parts[-1].last
        sketch = Sketch()
        for b in parts:
            assert b.sketch is not None
            sketch.merge(b.sketch)
        assert wide.sketch == sketch


@given(READINGS, KINDS, GAPS, st.integers(1, 15), st.integers(0, 60), st.integers(1, 30))
def test_what_is_far_away_does_not_matter(
    readings: list[Reading], kind: Kind, gaps: list[Span], silence_ms: int, start: int, length: int
) -> None:
    """Two silences before and one after are enough: a closing sample, never two in a row, carries what was one before it."""
    own = [r for r, before in zip(readings, [None, *readings], strict=False) if not (r[1] and before is not None and before[1])]
    end = start + length
    near = [r for r in own if start - 2 * silence_ms <= r[0] <= end + silence_ms]
    assert [repr(b) for b in buckets(near, kind, start, end, length, gaps, silence_ms)] == [
        repr(b) for b in buckets(own, kind, start, end, length, gaps, silence_ms)
    ]


@given(st.integers(0, 10**15), st.integers(1, 10**6), st.lists(st.integers(0, 10**6), max_size=5))
def test_parts_of_a_step_add_up(increase: int, length: int, cuts: list[int]) -> None:
    step = Step(1000, 1000 + length, 5, increase)
    at = sorted({1000, 1000 + length, *(1000 + c for c in cuts if c < length)})
    parts = [share(step, a, b) for a, b in itertools.pairwise(at)]
    assert sum(parts) == increase
    assert min(parts) >= 0
    as_float = Step(1000, 1000 + length, 5.0, float(increase))
    assert sum(share(as_float, a, b) for a, b in itertools.pairwise(at)) == pytest.approx(increase, rel=1e-9)


def test_the_burst_after_an_idle_time_falls_where_it_happened() -> None:
    """The closing sample says that the CPU stood still; memory was not read in it."""
    cpu: list[Reading] = [(0, False, 100), (55_000, True, 100), (56_000, False, 900)]
    first, second = buckets(cpu, COUNTER, 0, 60_000, 30_000, silence_ms=61_000)
    assert (first.increase, first.covered_ms) == (0, 30_000)
    assert (second.increase, second.covered_ms, second.count) == (800, 26_000, 1)
    assert second.per_s == 800 / 26
    memory: list[Reading] = [(0, False, 7), (55_000, True, None), (56_000, False, 9)]
    (only,) = buckets(memory, GAUGE, 0, 60_000, 60_000, silence_ms=61_000)
    assert (only.total, only.covered_ms, only.count, only.last) == (7 * 56_000, 56_000, 2, 9)


def test_a_lonely_reading_is_seen_but_covers_nothing() -> None:
    (only,) = buckets([(5, False, 3)], GAUGE, 0, 10, 10)
    assert (only.count, only.covered_ms, only.avg, only.min, only.max, only.last) == (1, 0, None, 3, 3, 3)


def test_a_counter_that_fell_is_unknown_and_goes_on() -> None:
    (only,) = buckets([(0, False, 50), (10, False, 5), (20, False, 8)], COUNTER, 0, 30, 30)
    assert (only.increase, only.covered_ms, only.last, only.count) == (3, 10, 8, 3)


@given(READINGS, KINDS, GAPS, SILENCE, st.integers(0, 120), st.none() | st.integers(0, 100))
def test_states_have_no_holes_and_agree_with_steps(
    readings: list[Reading], kind: Kind, gaps: list[Span], silence_ms: int | None, until: int, ended: int | None
) -> None:
    found = states(readings, kind, until, gaps, silence_ms, ended)
    if not readings or until <= readings[0][0]:
        assert found == []
        return
    assert found[0].from_ms == readings[0][0]
    assert found[-1].to_ms == until
    assert all(a.to_ms == b.from_ms and a[2:] != b[2:] for a, b in itertools.pairwise(found))
    known = {ms: s.value for s in steps(readings, kind, gaps, silence_ms) for ms in range(s.from_ms, s.to_ms)}
    for span in found:
        for ms in range(span.from_ms, min(span.to_ms, readings[-1][0])):
            is_told = span.state in (State.UNCHANGED, State.LAST_OBSERVED)
            assert is_told == (ms in known)
            assert span.value == known.get(ms)


def test_unchanged_last_observed_unknown_and_gone_are_told_apart() -> None:
    readings: list[Reading] = [(0, False, 5), (10, False, 5), (20, False, 9), (80, False, 9)]
    assert states(readings, COUNTER, 200, (), 30, ended_ms=100) == [
        StateSpan(0, 10, State.UNCHANGED, 5),
        StateSpan(10, 20, State.LAST_OBSERVED, 5),
        StateSpan(20, 80, State.UNKNOWN, None),
        StateSpan(80, 100, State.LAST_OBSERVED, 9),
        StateSpan(100, 200, State.GONE, None),
    ]
    assert states(readings[:2], GAUGE, 40, (), 30) == [StateSpan(0, 40, State.LAST_OBSERVED, 5)]
    assert states(readings[:2], GAUGE, 41, (), 30)[-1] == StateSpan(10, 41, State.UNKNOWN, None)
    assert states(readings[:2], GAUGE, 40, ((15, 16),), 30)[-1].state is State.UNKNOWN


def test_many_gaps_and_many_readings_are_looked_at_once_each() -> None:
    looks = 0

    class Counted(tuple[int, int]):
        def __getitem__(self, place: Any) -> Any:
            nonlocal looks
            looks += 1
            return super().__getitem__(place)

        def __iter__(self) -> Iterator[int]:
            nonlocal looks
            looks += 1
            return super().__iter__()

    count = 1000
    readings = [(i * 1000, False, i) for i in range(count)]
    gaps = [Counted((i * 1000 + 500, i * 1000 + 600)) for i in range(0, count, 2)]
    found = list(steps(readings, Kind.GAUGE, gaps))  # type: ignore[arg-type]
    assert [step.from_ms for step in found] == [i * 1000 for i in range(1, count - 1, 2)]
    assert looks < 10 * count
