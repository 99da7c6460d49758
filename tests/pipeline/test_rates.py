"""Rates and smoothing, against models that know every millisecond or every tick."""

import itertools
import math
from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegauge.pipeline.housekeeping import Policy, next_interval
from tidegauge.pipeline.rates import (
    Level,
    Mean,
    Point,
    Rate,
    Step,
    cpu_cores,
    exponential,
    max_silence_ms,
    per_second,
    points,
    rate_between,
    rates,
    share,
    table_points,
    window_mean,
)
from tidegauge.pipeline.records import Gap, Kind, Metric, Sample, Schema, TableSchema, Value
from tidegauge.pipeline.testing import make_container


def gap(from_ms: int, to_ms: int, container: int | None = None) -> Gap:
    return Gap("source", from_ms, to_ms, "stall", container)


# The whole against the truth.

RISES = st.lists(st.tuples(st.integers(1, 90_000), st.integers(0, 10**15)), min_size=1, max_size=30)


def series(rises: Sequence[tuple[int, int]], number: int = 0, start_ms: int = 1000) -> list[Point]:
    ts, value, out = start_ms, 5, [Point(start_ms, 5, number)]
    for wait_ms, rise in rises:
        ts, value = ts + wait_ms, value + rise
        out.append(Point(ts, value, number))
    return out


@given(RISES, st.randoms(use_true_random=False))
def test_without_resets_rates_are_the_whole_increase_in_any_order_of_points(
    rises: list[tuple[int, int]], random: Random
) -> None:
    own = series(rises)
    found = rates(own)
    assert [(r.from_ms, r.to_ms) for r in found] == [(a.ts_ms, b.ts_ms) for a, b in itertools.pairwise(own)]
    assert sum(r.increase for r in found) == sum(rise for _, rise in rises)
    by_time = sum(r.per_s * (r.to_ms - r.from_ms) / 1000 for r in found)
    assert by_time == pytest.approx(sum(rise for _, rise in rises), rel=1e-9)
    shuffled = [*own, *random.sample(own, len(own) // 2)]
    random.shuffle(shuffled)
    assert rates(shuffled) == found


VALUES: st.SearchStrategy[Value] = st.none() | st.integers(0, 50) | st.floats(0, 50)
ANY_POINTS = st.lists(st.builds(Point, st.integers(0, 60), VALUES, st.integers(0, 2), st.booleans()), max_size=25)
GAPS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 20), st.sampled_from([None, 0, 1])).map(
        lambda g: gap(g[0], g[0] + g[1], g[2])
    ),
    max_size=3,
)


def expected(all_points: Sequence[Point], gaps: Sequence[Gap], silence_ms: int | None) -> set[Rate]:
    """By definition, each pair of neighbours for itself: what was known of a value at a time is asked backwards."""
    out = set()
    for number in {p.container for p in all_points}:
        first: dict[int, Point] = {}
        for p in all_points:
            if p.container == number:
                first.setdefault(p.ts_ms, p)
        times = sorted(first)

        def is_known(i: int, times: list[int] = times, number: int = number) -> bool:
            """Whether nothing is missing between the time of this index and the one before."""
            a, b = times[i - 1], times[i]
            mine = [g for g in gaps if g.container in (None, number)]
            in_gap = any(max(a, g.from_ms) < min(b, g.to_ms) or a < g.from_ms == g.to_ms < b for g in mine)
            return not in_gap and (silence_ms is None or b - a <= silence_ms)

        def value_at(i: int, first: dict[int, Point] = first, times: list[int] = times) -> Value:
            p = first[times[i]]
            if p.value is None and p.is_closing and i > 0 and is_known(i):
                return value_at(i - 1)
            return p.value

        for i in range(1, len(times)):
            a, b = value_at(i - 1), value_at(i)
            if is_known(i) and a is not None and b is not None and b >= a:
                out.add(Rate(times[i - 1], times[i], b - a, number))
    return out


@given(ANY_POINTS, GAPS, st.none() | st.integers(1, 30))
@example([Point(0, 1), Point(5, None, 0, True), Point(9, 4)], [gap(1, 2)], None)
def test_any_points_against_the_definition(all_points: list[Point], gaps: list[Gap], silence_ms: int | None) -> None:
    found = rates(all_points, gaps, silence_ms)
    assert set(found) == expected(all_points, gaps, silence_ms)
    assert len(set(found)) == len(found)
    assert all(r.increase >= 0 and r.per_s >= 0 and r.from_ms < r.to_ms for r in found)
    numbers = [r.container for r in found]
    assert numbers == sorted(numbers, key=[p.container for p in all_points].index)
    for number in set(numbers):
        own = [r for r in found if r.container == number]
        assert all(a.to_ms <= b.from_ms for a, b in itertools.pairwise(own))


@given(
    st.lists(st.sampled_from([0, 0, 0, 0, 1, 700, 10**9]), min_size=1, max_size=200), st.sampled_from([4, 60]), st.booleans()
)
def test_rates_of_dynamic_sampling_are_true_to_each_tick(per_tick: list[int], max_s: int, is_held: bool) -> None:
    """A container sampled as the sampler does it: its rates, laid on the ticks, are what it did in each tick.

    A metric that is not held has None in closing samples; its rates are the same.
    """
    policy = Policy(1.0, float(max_s), True)
    values = [7]
    for rise in per_tick:
        values.append(values[-1] + rise)
    taken = [Point(0, values[0])]
    interval_s, due, is_idle = 1.0, 1, False
    for tick in range(1, len(values)):
        has_moved = values[tick] != values[tick - 1]
        if is_idle and not has_moved and tick < due:
            continue
        if is_idle and has_moved and (tick - 1) * 1000 > taken[-1].ts_ms:
            taken.append(Point((tick - 1) * 1000, values[tick - 1] if is_held else None, 0, True))
        taken.append(Point(tick * 1000, values[tick]))
        interval_s = next_interval(policy, interval_s, has_moved)
        is_idle, due = not has_moved, tick + int(interval_s)
    silence_ms = max_silence_ms(make_container(base_interval_s=1.0, max_interval_s=float(max_s)))
    laid: dict[int, float] = {}
    for r in rates(taken, (), silence_ms):
        ticks = range(r.from_ms // 1000 + 1, r.to_ms // 1000 + 1)
        assert len(ticks) == 1 or r.increase == 0, "a burst does not spread over idle time"
        laid |= {tick: r.increase / len(ticks) for tick in ticks}
    last = taken[-1].ts_ms // 1000
    assert laid == {tick: rise for tick, rise in enumerate(per_tick, 1) if tick <= last}


# What is not known.


def test_an_idle_series_is_zero_up_to_the_closing_sample_and_the_burst_comes_after() -> None:
    read = [Point(0, 100), Point(30_000, 100, 0, True), Point(31_000, 600)]
    assert rates(read) == [Rate(0, 30_000, 0), Rate(30_000, 31_000, 500)]
    assert [r.per_s for r in rates(read)] == [0, 500]
    not_read = [read[0], read[1]._replace(value=None), read[2]]
    assert rates(not_read) == rates(read)


def test_none_in_an_ordinary_sample_is_unknown_before_and_after() -> None:
    assert rates([Point(0, 1), Point(1, None), Point(2, 5), Point(3, 6)]) == [Rate(2, 3, 1)]
    after = [Point(0, 1), Point(1, None), Point(2, None, 0, True), Point(3, 5)]
    assert rates(after) == []


def test_a_closing_sample_carries_nothing_over_a_gap_or_long_silence() -> None:
    read = [Point(0, 1), Point(100, None, 0, True), Point(101, 50)]
    assert rates(read, [gap(20, 30)]) == []
    assert rates(read, (), 99) == []
    assert len(rates(read, (), 100)) == 2


def test_a_counter_that_fell_has_no_rate_there_and_goes_on_from_what_it_is() -> None:
    assert rates([Point(0, 900), Point(1000, 40), Point(2000, 45)]) == [Rate(1000, 2000, 5)]


def test_nothing_across_numbers_whose_times_may_overlap() -> None:
    before = [Point(5000, 10, 1), Point(6000, 20, 1)]
    set_back = [Point(5500, 20, 2), Point(6500, 50, 2)]
    assert rates([*before, *set_back]) == [Rate(5000, 6000, 10, 1), Rate(5500, 6500, 30, 2)]
    assert rate_between(before[0], set_back[1]) is None


def test_gaps() -> None:
    read = [Point(0, 0), Point(10, 1), Point(20, 2), Point(30, 3)]
    assert [r.from_ms for r in rates(read, [gap(10, 20)])] == [0, 20], "it touches its neighbours only"
    assert [r.from_ms for r in rates(read, [gap(5, 5)])] == [10, 20]
    assert [r.from_ms for r in rates(read, [gap(10, 10)])] == [0, 10, 20]
    assert len(rates(read, [gap(0, 30, 99)])) == 3, "of another container"
    assert rates(read, [gap(-5, 40)]) == []


def test_between_two_points() -> None:
    a, b = Point(1000, 5), Point(3000, 9)
    assert rate_between(a, b) == Rate(1000, 3000, 4)
    assert (rate_between(b, a), rate_between(a, a), rate_between(a, b._replace(value=None))) == (None, None, None)
    assert (rate_between(a, b, [gap(1500, 1600)]), rate_between(a, b, (), 1999)) == (None, None)


def test_of_two_points_of_one_time_the_first_counts() -> None:
    assert rates([Point(0, 1), Point(5, 3), Point(5, 9), Point(9, 4)]) == [Rate(0, 5, 2), Rate(5, 9, 1)]


# Units.


def test_cores_bytes_and_shares() -> None:
    cpu = [Rate(0, 2000, 3_000_000_000), Rate(2000, 2500, 125_000_000)]
    assert cpu_cores(cpu) == [Step(0, 2000, 1.5), Step(2000, 2500, 0.25)]
    assert per_second([Rate(0, 500, 1024)]) == [Step(0, 500, 2048.0)]
    throttled = [Rate(0, 10, 2), Rate(10, 20, 0), Rate(20, 30, 9), Rate(30, 40, 1), Rate(50, 60, 1)]
    periods = [Rate(0, 10, 8), Rate(10, 20, 0), Rate(20, 30, 8), Rate(30, 41, 1), Rate(50, 60, 4, 7)]
    assert share(throttled, periods) == [Step(0, 10, 0.25), Step(20, 30, 1.0)]


# Smoothing.

STEPS = st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1000), st.integers(0, 3)), min_size=1, max_size=12)


def laid_out(parts: Sequence[tuple[int, float, int]]) -> list[Step]:
    """Steps one after the other; the third number is how long nothing is known before each."""
    out, at = [], 0
    for length, value, pause in parts:
        out.append(Step(at + pause, at + pause + length, value))
        at += pause + length
    return out


@given(STEPS, st.floats(0.005, 1.0))
def test_the_exponential_mean_is_that_of_every_millisecond(parts: list[tuple[int, float, int]], span_s: float) -> None:
    steps = laid_out(parts)
    every_ms = [Step(t, t + 1, s.value) for s in steps for t in range(s.from_ms, s.to_ms)]
    fine = {level.ts_ms: level.value for level in exponential(every_ms, span_s)}
    coarse = exponential(steps, span_s)
    assert [level.ts_ms for level in coarse] == [s.to_ms for s in steps]
    for level in coarse:
        assert level.value == pytest.approx(fine[level.ts_ms], rel=1e-6, abs=1e-6)
        assert min(s.value for s in steps) - 1e-9 <= level.value <= max(s.value for s in steps) + 1e-9


def test_the_exponential_mean_by_hand() -> None:
    steps = [Step(0, 1000, 4.0), Step(1000, 11_000, 0.0), Step(11_000, 12_000, 2.0), Step(13_000, 14_000, 9.0)]
    mean = 4.0 * math.exp(-1)
    expected = [4.0, mean, 2.0 + math.exp(-0.1) * (mean - 2.0), 9.0]
    found = exponential(steps, 10.0)
    assert [level.value for level in found] == pytest.approx(expected)
    assert found[-1] == Level(14_000, 9.0), "anew after an unknown time"
    assert exponential([], 1.0) == []


@given(STEPS, st.integers(-10, 300), st.integers(1, 300))
def test_the_mean_of_a_window_is_that_of_its_milliseconds(parts: list[tuple[int, float, int]], start: int, width: int) -> None:
    steps = laid_out(parts)
    inside = [s.value for s in steps for t in range(s.from_ms, s.to_ms) if start <= t < start + width]
    found = window_mean(steps, start, start + width)
    if not inside:
        assert found is None
        return
    assert found is not None
    assert found.covered_ms == len(inside)
    assert found.value == pytest.approx(sum(inside) / len(inside), rel=1e-9, abs=1e-9)


def test_the_mean_of_rates_over_uneven_intervals_is_the_increase_over_the_time() -> None:
    read = [Point(0, 0), Point(59_000, 0, 0, True), Point(60_000, 600)]
    assert window_mean(per_second(rates(read)), 0, 60_000) == Mean(10.0, 60_000)


# Points out of samples.


def counter(name: str, table: str = "sample") -> Metric:
    return Metric(name, Kind.COUNTER, "count", table, "help")


def test_points_of_samples_whose_schemas_differ() -> None:
    one, two = Schema.of([counter("a"), counter("b")]), Schema.of([counter("b"), counter("c")])
    schemas = {s.id: s for s in (one, two)}
    samples = [Sample(4, 10, one.id, (1, 2)), Sample(4, 20, two.id, (3, 4), (), True), Sample(4, 30, one.id, (5, None))]
    assert list(points(samples, schemas, "b")) == [Point(10, 2, 4), Point(20, 3, 4, True), Point(30, None, 4)]
    assert [p.value for p in points(samples, schemas, "a")] == [1, None, 5]


def test_points_of_an_interface() -> None:
    net = TableSchema("network", "interface", (counter("rx", "network"), counter("tx", "network")))
    other = TableSchema("disk_io", "device", (counter("rx", "disk_io"),))
    schema, bare = Schema.of([counter("a")], [other, net]), Schema.of([counter("a")])
    rows = (("lo", 1, 2), ("eth0", 10, 20))
    samples = [
        Sample(4, 10, schema.id, (1,), ((), rows)),
        Sample(4, 20, schema.id, (1,), (None, None)),
        Sample(4, 30, schema.id, (1,)),
        Sample(4, 40, schema.id, (1,), (), True),
        Sample(4, 50, schema.id, (1,), ((("eth0", 99),), (("eth0", 30, 45),))),
        Sample(4, 60, schema.id, (1,), ((), (("lo", 1, 2),))),
        Sample(4, 70, bare.id, (1,)),
        Sample(4, 80, schema.id, (1,), ((), rows), True),
        Sample(4, 90, schema.id, (1,), ((), (("lo", 1, 2), ("eth0", None, None)))),
    ]
    found = list(table_points(samples, {s.id: s for s in (schema, bare)}, "network", "eth0", "tx"))
    assert found == [
        Point(10, 20, 4),
        Point(40, None, 4, True),
        Point(50, 45, 4),
        Point(60, None, 4),
        Point(70, None, 4),
        Point(80, 20, 4, True),
    ]
    assert rates(found) == [Rate(10, 40, 0, 4), Rate(40, 50, 25, 4)]
    assert [p.value for p in table_points(samples[:1], {schema.id: schema}, "network", "eth0", "nothing")] == [None]


def test_silence_is_the_maximum_and_one_base_interval() -> None:
    assert max_silence_ms(msgspec.structs.replace(make_container(), base_interval_s=0.5, max_interval_s=60.0)) == 60_500
