"""Answers about history equal what an oracle finds that goes second by second, over records with all that can go wrong."""

import time
from collections.abc import Sequence

import pytest
from tests.history_rig import BEGIN_MS, CATALOGUE, END_MS, Oracle, PureReader, nearest_rank, records

from tidegauge.pipeline.history import Bounds, HistoryReader, StoredContainer, TooMuch
from tidegauge.pipeline.history_answer import Answer, Series, answer
from tidegauge.pipeline.history_query import BadQuestion, Question, Select
from tidegauge.pipeline.records import Kind

RECORDS = records()
READER = PureReader(RECORDS)
ORACLE = Oracle(RECORDS)
CPU, MEMORY = "cpu_usage_ns", "memory_working_set_bytes"


def _ask(metric: str, **fields: object) -> Answer:
    asked = Question(**({"metric": metric, "since_ms": BEGIN_MS, "until_ms": END_MS} | fields))  # type: ignore[arg-type]
    return answer(READER, asked, Bounds(10**6, time.monotonic() + 60), END_MS)


def _one(found: Answer) -> Series:
    assert len(found.series) == 1
    return found.series[0]


def _near(value: float | None) -> object:
    """Off by what floats are off by, however the second's fractions are added."""
    return None if value is None else pytest.approx(value, rel=1e-9, abs=1e-9)


def _containers(**fields: tuple[str, ...]) -> list[StoredContainer]:
    return [c for c in READER.containers(BEGIN_MS, END_MS) if Select(**fields).takes(c)]  # type: ignore[arg-type]


def _expected(
    containers: Sequence[StoredContainer], metric: str, agg: str, from_s: int, to_s: int, instance: str | None = None
) -> tuple[float | None, float | None]:
    """Value and coverage of one bucket by the oracle."""
    found = CATALOGUE[metric]
    scale = 1e9 if found.kind is Kind.COUNTER and found.unit == "ns" and agg != "increase" else 1
    seconds = [ORACLE.seconds(c, found, instance, from_s, to_s) for c in containers]
    known = [s.value for own in seconds for s in own if s.value is not None]
    alive = sum(s.is_alive for own in seconds for s in own)
    coverage = min(1.0, len(known) / alive) if alive else None
    if not known:
        return None, coverage
    if agg == "increase":
        return sum(known), coverage
    if agg == "avg":
        return sum(known) / len(known) / scale, coverage
    if agg in ("sum", "rate"):
        total = 0.0
        for own in seconds:
            mine = [s.value for s in own if s.value is not None]
            if mine:
                total += sum(mine) / len(mine) * sum(s.is_alive for s in own) / (to_s - from_s)
        return total / scale, coverage
    value = nearest_rank(known, 50 if agg == "median" else float(agg[1:]))
    return None if value is None else value / scale, coverage


_PATHS = ("/", "/docker/a", "/docker/b", "/docker/c", "/docker/e", "/kubepods/p", "/docker/f")


@pytest.mark.parametrize("agg", ["avg", "sum", "median", "p95", "p12.5"])
@pytest.mark.parametrize("metric", [CPU, MEMORY])
@pytest.mark.parametrize("path", _PATHS)
def test_each_bucket_of_a_container_is_what_its_seconds_say(path: str, metric: str, agg: str) -> None:
    series = _one(_ask(metric, agg=agg, bucket_ms=600_000, select=Select(path=(path,))))
    assert len(series.points) == 18
    chosen = _containers(path=(path,))
    for i, point in enumerate(series.points):
        value, coverage = _expected(chosen, metric, agg, 600 * i, 600 * (i + 1))
        assert point.ts_ms == BEGIN_MS + 600_000 * i
        assert point.coverage == _near(coverage)
        assert point.value == _near(value)
    value, coverage = _expected(chosen, metric, agg, 0, 10_800)
    assert series.value == _near(value)
    assert series.coverage == _near(coverage)


def test_the_increase_is_all_that_is_known_of_it() -> None:
    for path in _PATHS:
        series = _one(_ask(CPU, agg="increase", bucket_ms=3_600_000, select=Select(path=(path,))))
        for i, point in enumerate(series.points):
            expected, _ = _expected(_containers(path=(path,)), CPU, "increase", 3600 * i, 3600 * (i + 1))
            # shared out in whole ns, while the oracle's seconds are fractions
            assert point.value == (None if expected is None else pytest.approx(expected, rel=1e-9, abs=2))
        assert series.value is not None
        assert series.value == sum(p.value or 0 for p in series.points)


@pytest.mark.parametrize("agg", ["avg", "sum", "p95"])
def test_interfaces_are_summed_or_chosen(agg: str) -> None:
    for instance in (None, "eth0", "eth*", "eth1"):
        found = _ask(
            "network_receive_bytes", agg=agg, bucket_ms=1_800_000, select=Select(path=("/docker/a",)), instance=instance
        )
        assert found.unit == "bytes/s"
        for i, point in enumerate(_one(found).points):
            value, coverage = _expected(
                _containers(path=("/docker/a",)), "network_receive_bytes", agg, 1800 * i, 1800 * (i + 1), instance
            )
            assert point.value == _near(value)
            assert point.coverage == _near(coverage)


def test_the_answer_lists_the_interfaces_there_are() -> None:
    for instance in (None, "eth0", "none*"):
        found = _ask("network_receive_bytes", select=Select(path=("/", "/docker/a")), instance=instance)
        assert found.instances == ["eth0", "eth1"]
    assert [s.value for s in found.series] == [None, None]
    assert _ask(CPU).instances == []


def test_an_interface_that_goes_is_no_fall_and_one_that_comes_no_burst() -> None:
    found = _one(_ask("network_receive_bytes", agg="max", bucket_ms=60_000, select=Select(path=("/docker/a",))))
    rates = {p.value for p in found.points if p.value is not None}
    assert rates == {1000.0, 2000.0}  # each rises by 1000 a second


def test_a_group_is_summed_over_its_outermost_containers() -> None:
    pods = _one(_ask(CPU, agg="rate", group=("namespace",), select=Select(namespace=("shop",))))
    alone = _one(_ask(CPU, agg="rate", select=Select(path=("/kubepods/p",))))
    assert pods.value == alone.value
    assert pods.labels == {"namespace": "shop"}
    host = _ask(CPU, agg="sum", group=("host",))
    assert [s.labels for s in host.series] == [{"host": "host-a"}, {"host": "host-b"}]
    assert host.series[0].value == _one(_ask(CPU, agg="sum", select=Select(path=("/",)))).value


def test_an_average_is_over_all_containers_of_a_group() -> None:
    chosen = _containers(namespace=("docker",))
    for agg in ("avg", "sum", "p90"):
        found = _one(_ask(MEMORY, agg=agg, group=("namespace",), bucket_ms=900_000, select=Select(namespace=("docker",))))
        for i, point in enumerate(found.points):
            value, coverage = _expected(chosen, MEMORY, agg, 900 * i, 900 * (i + 1))
            assert point.value == _near(value)
            assert point.coverage == _near(coverage)


def test_groups_by_label_take_those_without_it_together() -> None:
    found = _ask(MEMORY, group=("label:app",))
    assert [s.labels for s in found.series] == [{"label:app": ""}, {"label:app": "web"}, {"label:app": "job"}]
    assert sum(s.containers for s in found.series) == 11
    assert _one(_ask(MEMORY, group=())).containers == 11
    both = _ask(MEMORY, group=("host", "label:app"), select=Select(labels=(("app", "web"),)))
    assert [s.labels for s in both.series] == [{"host": h, "label:app": "web"} for h in ("host-a", "host-b")]


def test_least_greatest_and_last() -> None:
    memory = {agg: _one(_ask(MEMORY, agg=agg, select=Select(path=("/docker/f",)))).value for agg in ("min", "max", "last")}
    assert memory == {"min": 4 * 10**7, "max": 4 * 10**7 + 10_770, "last": 4 * 10**7 + 10_770}
    rates = [s.value for s in ORACLE.seconds(_containers(path=("/docker/a",))[0], CATALOGUE[CPU], None, 0, 10_800)]
    known = [r for r in rates if r is not None]
    for agg, expected in (("min", min(known)), ("max", max(known)), ("last", known[-1])):
        found = _one(_ask(CPU, agg=agg, select=Select(path=("/docker/a",)))).value
        assert found == pytest.approx(expected / 1e9, rel=1e-12)


def test_readings_are_counted_without_closing_ones() -> None:
    for path, metric, expected in (("/", MEMORY, 360), ("/docker/a", MEMORY, 1050), ("/", "filesystem_usage_bytes", 180)):
        assert _one(_ask(metric, agg="count", select=Select(path=(path,)))).value == expected


def test_filesystems_are_read_less_often_and_still_known() -> None:
    found = _one(_ask("filesystem_usage_bytes", select=Select(path=("/",)), instance="/dev/sd*", bucket_ms=600_000))
    for i, point in enumerate(found.points):
        value, coverage = _expected(
            _containers(path=("/",)), "filesystem_usage_bytes", "avg", 600 * i, 600 * (i + 1), "/dev/sd*"
        )
        assert point.value == _near(value)
        assert point.coverage == _near(coverage)


def test_what_a_slow_collector_reads_holds_longer() -> None:
    found = _one(_ask("process_count", select=Select(path=("/docker/c",)), bucket_ms=450_000))
    assert found.coverage is not None
    assert found.coverage > 0.9
    for i, point in enumerate(found.points):
        value, coverage = _expected(_containers(path=("/docker/c",)), "process_count", "avg", 450 * i, 450 * (i + 1))
        assert point.value == _near(value)
        assert point.coverage == _near(coverage)


@pytest.mark.parametrize("agg", ["avg", "increase", "p80"])
def test_a_span_in_the_middle_knows_what_was_before_and_comes_after_it(agg: str) -> None:
    for path in ("/docker/b", "/docker/f"):
        for from_s, to_s in ((1777, 2718), (4999, 5003), (5891, 6007)):
            span = {"since_ms": BEGIN_MS + 1000 * from_s, "until_ms": BEGIN_MS + 1000 * to_s}
            found = _one(_ask(CPU, agg=agg, select=Select(path=(path,)), **span))
            value, coverage = _expected(_containers(path=(path,)), CPU, agg, from_s, to_s)
            assert found.value == (None if value is None else pytest.approx(value, rel=1e-9, abs=2))
            assert found.coverage == _near(coverage)


def test_unknown_and_gone_are_told_apart_from_zero() -> None:
    states = {
        path: [p.state for p in _one(_ask(metric, bucket_ms=300_000, select=Select(path=(path,)))).points]
        for path, metric in (("/docker/c", CPU), ("/docker/b", MEMORY), ("/docker/f", CPU), ("/docker/e", CPU))
    }
    assert states["/docker/c"] == ["measured"] * 24 + ["gone"] * 12  # its end is in the 24th
    assert set(states["/docker/b"]) == {"measured"}
    assert "unknown" in states["/docker/f"]
    assert states["/docker/e"].count("gone") == 1 + 5
    silent = _one(_ask(CPU, bucket_ms=10_000, select=Select(path=("/docker/f",)), since_ms=BEGIN_MS + 5_400_000)).points
    assert silent[0].value is None
    assert (silent[0].state, silent[0].coverage) == ("unknown", 0.0)
    gone = _one(_ask(CPU, bucket_ms=10_000, select=Select(path=("/docker/c",)), since_ms=BEGIN_MS + 6_900_000)).points[-1]
    assert (gone.value, gone.coverage, gone.state) == (None, None, "gone")


def test_a_counter_that_did_not_move_is_unchanged_and_zero() -> None:
    points = _one(_ask(CPU, agg="rate", bucket_ms=5_000, select=Select(path=("/docker/b",)))).points
    still = [p for p in points if p.state == "unchanged"]
    assert still
    assert {p.value for p in still} == {0.0}
    held = _one(_ask(MEMORY, bucket_ms=5_000, select=Select(path=("/docker/b",)))).points
    assert {p.state for p in held} >= {"measured", "last_observed"}


def test_the_greatest_few_are_the_same_with_and_without_buckets() -> None:
    every = sorted(_ask(MEMORY).series, key=lambda s: -(s.value or 0))
    for bucket_ms in (None, 600_000):
        found = _ask(MEMORY, top=3, bucket_ms=bucket_ms)
        assert [s.labels for s in found.series] == [s.labels for s in every[:3]]
        assert [s.value for s in found.series] == pytest.approx([s.value for s in every[:3]])
        assert found.found == len(every)


def test_a_question_about_nothing_has_an_empty_answer() -> None:
    assert _ask(CPU, select=Select(name=("nobody",))).series == []
    assert _ask(CPU, since_ms=0, until_ms=1000).series == []


def test_a_container_without_the_metric_is_unknown_not_zero() -> None:
    found = _one(_ask("load1", agg="avg", select=Select(path=("/docker/a",))))
    assert (found.value, found.coverage) == (None, 0.0)


def test_the_answer_tells_how_it_came_about() -> None:
    found = _ask(CPU, agg="p95", bucket_ms=7_200_000, since_ms=BEGIN_MS + 3_600_000)
    assert (found.metric, found.unit, found.resolution) == (CPU, "cores", "raw")
    assert found.method == "nearest rank, exact, weighted by time"
    assert found.since_ms % 7_200_000 == 0
    assert found.rows > 1000
    assert _ask(CPU, agg="increase").unit == "ns"
    assert _ask("memory_failures").unit == "count/s"
    assert _ask(MEMORY, agg="count").unit == "readings"


def test_what_would_be_too_much_is_refused() -> None:
    with pytest.raises(BadQuestion, match="series of 21600 buckets, more than 100000 values"):
        _ask(CPU, bucket_ms=500)
    asked = Question(metric=CPU, since_ms=BEGIN_MS, until_ms=END_MS)
    with pytest.raises(TooMuch, match="more than 1000 rows"):
        answer(READER, asked, Bounds(1000, time.monotonic() + 60), END_MS)
    with pytest.raises(TooMuch, match="too long"):
        answer(READER, asked, Bounds(10**6, time.monotonic() - 1), END_MS)
    with pytest.raises(BadQuestion, match=r"no 'cpu_usage'.*did you mean cpu_usage_ns"):
        _ask("cpu_usage")


def test_the_reader_of_the_tests_is_one() -> None:
    assert isinstance(READER, HistoryReader)
