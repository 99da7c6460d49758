"""Roll-up rows made a column at a time, against the definition, which looks at one metric at a time."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.buckets import Bucket, buckets
from tidegauge.pipeline.history import Reading, Span
from tidegauge.pipeline.records import Kind
from tidegauge.sinks.sql.rollup_rows import Series, merged, partial_of, shape_of
from tidegauge.sinks.sql.tables_rollup import RolledTable, rolled_tables

START, WIDTH = 1000, 60
NAMES = ("cpu_usage_ns", "memory_page_faults", "memory_working_set_bytes", "pids_current")


def small(table: str, names: Sequence[str]) -> RolledTable:
    whole = next(t for t in rolled_tables() if t.table == table)
    return whole._replace(columns=tuple(c for c in whole.columns if c.metric.name in names))


SAMPLE = small("sample", NAMES)
NETWORK = small("network", ("network_receive_bytes", "network_transmit_packets"))

VALUES = st.none() | st.integers(0, 6) | st.integers(0, 10**12)
RISING = st.integers(0, 3)


@st.composite
def tables_of_rows(draw: st.DrawFn) -> tuple[RolledTable, list[tuple[Any, ...]]]:
    """Rows around a bucket: counters that mostly rise, values that often stay, holes, closing samples."""
    table = draw(st.sampled_from([SAMPLE, NETWORK]))
    times = sorted(draw(st.sets(st.integers(START - 80, START + WIDTH + 80), max_size=14)))
    rows: list[tuple[Any, ...]] = []
    last: list[Any] = [5] * len(table.columns)
    holes = draw(st.sampled_from([st.just(False), st.integers(0, 5).map(lambda i: i == 0)]))
    for ts_ms in times:
        is_closing = table is SAMPLE and draw(st.integers(0, 4)) == 0 and not (rows and rows[-1][2])
        values: list[Any] = []
        for i, column in enumerate(table.columns):
            rises = column.metric.kind is Kind.COUNTER
            last[i] = last[i] + draw(RISING) if rises and draw(st.integers(0, 9)) else draw(RISING)
            is_none = draw(holes) or (is_closing and column.metric.name != "cpu_usage_ns")
            values.append(None if is_none else last[i])
        rows.append((ts_ms, 7, is_closing if table is SAMPLE else "eth0", *values))
    return table, rows


GAPS = st.lists(
    st.tuples(st.integers(START - 60, START + WIDTH + 60), st.integers(0, 30)).map(lambda g: (g[0], g[0] + g[1])), max_size=2
)


def expected(table: RolledTable, rows: Sequence[tuple[Any, ...]], silence_ms: int, gaps: Sequence[Span]) -> list[Bucket | None]:
    out: list[Bucket | None] = []
    for i, column in enumerate(table.columns, 3):
        readings: list[Reading] = [(row[0], table is SAMPLE and row[2], row[i]) for row in rows]
        found = buckets(readings, column.metric.kind, START, START + WIDTH, WIDTH, gaps, silence_ms, with_sketch=True)
        out.append(found[0] if found else None)
    return out


def shown(table: RolledTable, values: Sequence[Any] | None) -> list[dict[str, Any] | None]:
    """What a row says of each metric."""
    if values is None:
        return [None] * len(table.columns)
    count, covered_ms, partial = values[0], values[1], partial_of(values[2])
    left = iter(values[3:])
    out: list[dict[str, Any] | None] = []
    for column in table.columns:
        own: dict[str, Any] = {part: next(left) for part in column.parts}
        own["count"], own["covered_ms"] = partial.get(column.metric.name, (count, covered_ms))
        out.append(own if own["last"] is not None else None)
    return out


def told(bucket: Bucket | None, parts: Sequence[str]) -> dict[str, Any] | None:
    if bucket is None:
        return None
    own: dict[str, Any] = {part: getattr(bucket, part) for part in parts}
    if "sketch" in own:
        assert bucket.sketch is not None
        own["sketch"] = bucket.sketch.encode() if bucket.sketch else None
    return own | {"count": bucket.count, "covered_ms": bucket.covered_ms}


@given(tables_of_rows(), GAPS, st.integers(1, 60), st.lists(st.integers(0, 14), max_size=3))
def test_columns_at_a_time_give_what_the_definition_gives(
    given_rows: tuple[RolledTable, list[tuple[Any, ...]]], gaps: list[Span], silence_ms: int, cuts: list[int]
) -> None:
    table, rows = given_rows
    series = Series(shape_of(table), START, START + WIDTH, silence_ms, gaps)
    at = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    for low, high in itertools.pairwise(at):
        series.feed(rows[low:high])
    truth = [told(b, c.parts) for b, c in zip(expected(table, rows, silence_ms, gaps), table.columns, strict=True)]
    assert shown(table, series.values()) == truth


@given(tables_of_rows(), GAPS, st.integers(1, 60), st.sampled_from([2, 3, 4]))
def test_merged_rows_are_the_row_of_the_whole(
    given_rows: tuple[RolledTable, list[tuple[Any, ...]]], gaps: list[Span], silence_ms: int, parts: int
) -> None:
    table, rows = given_rows
    step = WIDTH // parts
    made = []
    for start in range(START, START + WIDTH, step):
        series = Series(shape_of(table), start, start + step, silence_ms, gaps)
        if rows:
            series.feed(rows)
        if (values := series.values()) is not None:
            made.append(values)
    whole = Series(shape_of(table), START, START + WIDTH, silence_ms, gaps)
    if rows:
        whole.feed(rows)
    if not made:
        assert whole.values() is None
        return
    for one, other in zip(shown(table, merged(table, made)), shown(table, whole.values()), strict=True):
        if one is not None and other is not None and one.get("avg") is not None:
            assert one.pop("avg") == pytest.approx(other.pop("avg"), rel=1e-12)
        assert one == other
