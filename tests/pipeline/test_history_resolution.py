"""Samples or roll-ups: which are read, and that both give the same answers, over records with all that can go wrong."""

import time
from collections.abc import Mapping
from typing import Any

import pytest
from tests.history_rig import BEGIN_MS, CATALOGUE, END_MS, PureReader, RolledReader, records

from tidegauge.pipeline.buckets import Bucket
from tidegauge.pipeline.history import Bounds, HistoryReader, Kept, RollupReader, TooMuch
from tidegauge.pipeline.history_answer import Answer, answer
from tidegauge.pipeline.history_query import RESOLUTIONS, BadQuestion, Question, Select
from tidegauge.pipeline.history_resolution import aligned, choose, name_of
from tidegauge.pipeline.records import Metric

RECORDS = records()
RAW = PureReader(RECORDS)
SETTLED_MS = BEGIN_MS + 9_123_000
ROLLED = RolledReader(RECORDS, SETTLED_MS)
CPU, MEMORY, NETWORK = "cpu_usage_ns", "memory_working_set_bytes", "network_receive_bytes"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def _ask(reader: HistoryReader, metric: str, **fields: Any) -> Answer:
    asked = Question(**({"metric": metric, "since_ms": BEGIN_MS, "until_ms": END_MS} | fields))
    return answer(reader, asked, Bounds(10**6, time.monotonic() + 60), END_MS)


def _flat(found: Answer) -> dict[str, list[float | None]]:
    return {str(s.labels): [s.value, *(p.value for p in s.points), *(p.coverage for p in s.points)] for s in found.series}


_AGGREGATES = ("avg", "sum", "count", "min", "max", "last", "p95", "median", "p1")


@pytest.mark.parametrize(
    ("metric", "agg"),
    [
        *((metric, agg) for metric in (CPU, "memory_failures") for agg in (*_AGGREGATES, "increase", "rate")),
        *((MEMORY, agg) for agg in _AGGREGATES),
    ],
)
@pytest.mark.parametrize(("resolution", "bucket_ms"), [("5m", 900_000), ("1h", HOUR_MS), ("5m", None)])
def test_roll_ups_say_what_samples_say(metric: str, agg: str, resolution: str, bucket_ms: int | None) -> None:
    fields: dict[str, Any] = {"agg": agg, "bucket_ms": bucket_ms}
    is_counter = metric != MEMORY
    if (is_counter and agg == "last") or (metric == "memory_failures" and agg in ("min", "max", "p95", "median", "p1")):
        with pytest.raises(BadQuestion, match=r"resolution: .*(in samples alone|hold no)"):
            _ask(ROLLED, metric, resolution=resolution, **fields)
        return
    exact, rolled = _ask(RAW, metric, **fields), _ask(ROLLED, metric, resolution=resolution, **fields)
    assert (exact.resolution, rolled.resolution) == ("raw", resolution)
    has_sketch = agg[0] == "p" or agg == "median" or (is_counter and agg in ("min", "max"))
    assert ("sketches" in rolled.method) is has_sketch
    assert rolled.rows < exact.rows
    expected, got = _flat(exact), _flat(rolled)
    assert expected.keys() == got.keys()
    for key, values in expected.items():
        for a, b in zip(values, got[key], strict=True):
            assert (a is None) == (b is None), key
            if a is not None:
                assert b == pytest.approx(a, rel=0.01 if has_sketch else 1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("bucket_ms", "late_ms"), [(None, 0), (None, 1_000_000), (HOUR_MS, 1_000_000), (2 * HOUR_MS, -3_000_000)]
)
@pytest.mark.parametrize(
    ("metric", "agg"),
    [
        *((CPU, agg) for agg in ("avg", "rate", "increase", "count", "min", "max", "p95", "p1")),
        *((MEMORY, agg) for agg in ("avg", "sum", "count", "min", "max", "last", "median")),
        *((NETWORK, agg) for agg in ("avg", "increase")),
    ],
)
def test_whole_hours_say_what_their_5_minutes_say(
    monkeypatch: pytest.MonkeyPatch, metric: str, agg: str, late_ms: int, bucket_ms: int | None
) -> None:
    """Roll-ups are made until `late_ms` before the end of the second hour."""
    monkeypatch.setattr("tidegauge.pipeline.history_resolution.RAW_SPAN_MS", 0)
    store = _Counted(RECORDS, BEGIN_MS + 2 * HOUR_MS - late_ms)
    fields: dict[str, Any] = {"agg": agg, "bucket_ms": bucket_ms, "since_ms": BEGIN_MS + 700_000, "until_ms": END_MS - 400_000}
    fine, chosen = _ask(store, metric, resolution="5m", **fields), _ask(store, metric, **fields)
    assert (chosen.resolution, chosen.method) == (fine.resolution, fine.method) == ("5m", fine.method)
    if metric != NETWORK:
        has_room = late_ms <= 0 or bucket_ms is not None
        assert (chosen.rows < fine.rows) is (HOUR_MS in store.widths) is has_room
    expected, got = _flat(fine), _flat(chosen)
    assert expected.keys() == got.keys()
    for key, values in expected.items():
        assert [v is None for v in got[key]] == [v is None for v in values]
        assert [v for v in got[key] if v is not None] == pytest.approx([v for v in values if v is not None], rel=1e-12)


class _Counted(RolledReader):
    """Which widths were read."""

    def __init__(self, given: Any, settled_ms: int) -> None:
        super().__init__(given, settled_ms)
        self.widths: set[int] = set()

    def rolled(self, *given: Any, **more: Any) -> Any:
        self.widths.add(given[2])
        return super().rolled(*given, **more)


class _Replaced(RolledReader):
    """One interface takes the place of the other in the middle of each hour."""

    def rolled(self, containers: Any, metric: Metric, width_ms: int, since_ms: int, until_ms: int, *_: Any, **__: Any) -> Any:
        own: dict[str, list[Bucket]] = {}
        for start_ms in range(since_ms, until_ms, width_ms):
            first = ("eth0", "eth1")[start_ms % HOUR_MS >= HOUR_MS // 2]
            for name in ("eth0", "eth1") if width_ms == HOUR_MS else (first,):
                bucket = Bucket(start_ms, start_ms + width_ms)
                bucket.covered_ms = min(width_ms, HOUR_MS // 2)
                bucket.increase = bucket.last = bucket.covered_ms
                own.setdefault(name, []).append(bucket)
        return {c.key: own for c in containers}


def test_hours_of_several_interfaces_are_read_by_5_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegauge.pipeline.history_resolution.RAW_SPAN_MS", 0)
    fields: dict[str, Any] = {"agg": "avg", "select": Select(path=("/docker/a",)), "until_ms": BEGIN_MS + HOUR_MS}
    store = _Replaced(RECORDS, END_MS)
    assert _ask(store, NETWORK, **fields) == _ask(store, NETWORK, resolution="5m", **fields)
    assert _ask(store, NETWORK, **fields).series[0].value == pytest.approx(1000)
    fields["instance"] = "eth1"
    assert _ask(store, NETWORK, **fields).rows < _ask(store, NETWORK, resolution="5m", **fields).rows


def test_interfaces_are_summed_over_roll_ups_too() -> None:
    fields: dict[str, Any] = {"bucket_ms": 1_800_000, "select": Select(path=("/docker/a",))}
    for agg in ("avg", "increase", "sum"):
        exact, rolled = _ask(RAW, NETWORK, agg=agg, **fields), _ask(ROLLED, NETWORK, agg=agg, resolution="5m", **fields)
        for a, b in zip(exact.series[0].points, rolled.series[0].points, strict=True):
            # where an interface comes or goes, samples leave some seconds unknown that roll-ups know of the other
            assert b.value == pytest.approx(a.value, rel=0.02)
    with pytest.raises(BadQuestion, match="several instances together: choose one, or resolution=raw"):
        _ask(ROLLED, NETWORK, agg="p95", resolution="5m", **fields)
    one = _ask(ROLLED, NETWORK, agg="p95", resolution="5m", instance="eth0", **fields)
    assert one.series[0].value == pytest.approx(1000, rel=0.01)


def test_samples_are_read_where_roll_ups_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegauge.pipeline.history_resolution.RAW_SPAN_MS", 0)
    assert _ask(ROLLED, NETWORK, agg="avg").resolution == "5m"
    found = _ask(ROLLED, NETWORK, agg="p95")
    assert (found.resolution, found.method) == ("raw", "nearest rank, exact, weighted by time")


class _Held(RolledReader):
    """A store that holds resolutions from some times on."""

    def __init__(self, **oldest_ms: int) -> None:
        super().__init__([], 0)
        self._oldest = oldest_ms

    def oldest_ms(self) -> int | None:
        return self._oldest.get("raw")

    def kept(self, metric: Metric) -> Mapping[int, Kept]:
        return {w: Kept(self._oldest[name], metric.name == CPU) for name, w in RESOLUTIONS.items() if name in self._oldest}


NOW_MS = 1_000 * DAY_MS
WEEK = _Held(raw=NOW_MS - 7 * DAY_MS, **{"5m": NOW_MS - 60 * DAY_MS, "1h": 0})


@pytest.mark.parametrize(
    ("store", "ago_ms", "fields", "expected"),
    [
        (WEEK, HOUR_MS, {}, "raw"),
        (WEEK, 6 * HOUR_MS, {}, "raw"),
        (WEEK, DAY_MS, {}, "5m"),
        (WEEK, DAY_MS, {"bucket_ms": 60_000}, "raw"),
        (WEEK, DAY_MS, {"bucket_ms": 900_000}, "5m"),
        (WEEK, DAY_MS, {"agg": "last"}, "raw"),
        (WEEK, 7 * DAY_MS, {}, "5m"),
        (WEEK, 8 * DAY_MS, {}, "1h"),
        (WEEK, 30 * DAY_MS, {"bucket_ms": 600_000}, "5m"),
        (WEEK, 90 * DAY_MS, {"bucket_ms": 600_000}, "5m"),
        (WEEK, 90 * DAY_MS, {"bucket_ms": DAY_MS}, "1h"),
        (WEEK, 900 * DAY_MS, {"bucket_ms": DAY_MS, "agg": "p95"}, "1h"),
        (_Held(raw=NOW_MS - HOUR_MS, **{"5m": NOW_MS - DAY_MS}), 5 * HOUR_MS, {}, "5m"),
        (_Held(raw=NOW_MS - DAY_MS), 900 * DAY_MS, {}, "raw"),
        (_Held(raw=NOW_MS - DAY_MS, **{"5m": NOW_MS - DAY_MS}), 30 * DAY_MS, {}, "5m"),
        (_Held(), DAY_MS, {}, "raw"),
    ],
)
def test_which_resolution_is_read(store: _Held, ago_ms: int, fields: dict[str, Any], expected: str) -> None:
    asked = Question(**({"metric": CPU, "since_ms": NOW_MS - ago_ms, "until_ms": NOW_MS} | fields))
    assert isinstance(store, RollupReader)
    assert name_of(choose(store, asked, CATALOGUE[CPU])) == expected


def test_a_resolution_that_cannot_be_is_refused() -> None:
    asked = Question(metric=CPU, since_ms=0, until_ms=DAY_MS, bucket_ms=60_000, resolution="5m")
    for store, metric, text in (
        (WEEK, CPU, "the buckets are no multiple of 5m"),
        (_Held(raw=0), CPU, "keeps no 5m roll-ups of cpu_usage_ns"),
        (RAW, CPU, "keeps no 5m"),
    ):
        with pytest.raises(BadQuestion, match=f"resolution: .*{text}"):
            choose(store, asked, CATALOGUE[metric])


def test_spans_grow_to_whole_roll_ups_where_samples_are_gone() -> None:
    asked = Question(metric=CPU, since_ms=NOW_MS - DAY_MS + 1, until_ms=NOW_MS - HOUR_MS + 1)
    there = aligned(WEEK, asked, 300_000)
    assert (there.since_ms, there.until_ms) == (NOW_MS - DAY_MS, NOW_MS - HOUR_MS + 1)
    gone = aligned(_Held(raw=NOW_MS), asked, 300_000)
    assert (gone.since_ms, gone.until_ms) == (NOW_MS - DAY_MS, NOW_MS - HOUR_MS + 300_000)


def test_what_samples_are_gone_roll_ups_still_tell() -> None:
    young = RolledReader(RECORDS, END_MS, raw_ms=END_MS - HOUR_MS)
    every, left = _ask(RAW, MEMORY, bucket_ms=600_000), _ask(young, MEMORY, bucket_ms=600_000)
    assert left.resolution == "5m"
    assert [s.value for s in left.series] == pytest.approx([s.value for s in every.series])


def test_what_is_not_made_yet_is_read_from_samples_and_only_the_last_of_it_where_these_are_too_many() -> None:
    late = RolledReader(RECORDS, BEGIN_MS)
    every = _ask(RAW, MEMORY, bucket_ms=300_000)
    found = _ask(late, MEMORY, resolution="5m", bucket_ms=300_000)
    assert [s.value for s in found.series] == [s.value for s in every.series]
    assert found.rows == every.rows
    asked = Question(metric=MEMORY, since_ms=BEGIN_MS, until_ms=END_MS, resolution="5m", bucket_ms=300_000)
    few = answer(late, asked, Bounds(1000, time.monotonic() + 60), END_MS)
    assert few.rows < every.rows / 4
    assert [s.value for s in few.series] == pytest.approx([s.value for s in every.series])
    with pytest.raises(TooMuch):
        answer(late, asked, Bounds(100, time.monotonic() + 60), END_MS)
