"""Samples from before the memory store, out of a real SQLite file, and percentiles over all that is stored."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.cadvisor_rig import Api

from tidegauge.api.cadvisor import summary
from tidegauge.api.cadvisor.summary import Point, Span, percentiles, rates, usage
from tidegauge.pipeline.testing import START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql.history import SqlHistory
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

SCHEMA = make_schema(("cpu_usage_ns", "memory_working_set_bytes", "memory_usage_bytes"), ("network",))
CONTAINER = make_container(1, "/a", name=None, image=None, labels={}, base_interval_s=1.0, max_interval_s=60.0)
OTHER = make_container(2, "/b", name=None, image=None, labels={})
HOUR = 3600
CPU_MS = [random.Random(5).randrange(0, 1000) for _ in range(2 * HOUR)]
"""CPU time used in each second."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours, a sample a second of two containers."""
    path = tmp_path_factory.mktemp("sql") / "x.db"
    sink = SqlSink(SqlConfig(url=f"sqlite:///{path}"))
    sink.open()
    total, row = 0, 1
    for start in range(0, 2 * HOUR, 600):
        samples = []
        for second in range(start, start + 600):
            for number in (1, 2):
                values = {"cpu_usage_ns": total * 1_000_000, "memory_working_set_bytes": 1000 + second}
                samples.append(make_sample(SCHEMA, number, START_MS + second * 1000, memory_usage_bytes=5000, **values))
            total += CPU_MS[second]
        sink.write([CONTAINER, OTHER, make_batch(samples, [CONTAINER, OTHER], (SCHEMA,), row)])
        row += len(samples)
    sink.close()
    return path


@pytest.fixture
def api(file: Path) -> Iterator[Api]:
    """The last two minutes are in memory, all of it is in SQL."""
    api = Api()
    api.older = SqlHistory(file)
    total = sum(CPU_MS[: 2 * HOUR - 120])
    samples = []
    for second in range(2 * HOUR - 120, 2 * HOUR):
        values = {"cpu_usage_ns": total * 1_000_000, "memory_working_set_bytes": 1000 + second}
        samples.append(make_sample(SCHEMA, 1, START_MS + second * 1000, memory_usage_bytes=5000, **values))
        total += CPU_MS[second]
    api.add(samples, [CONTAINER], SCHEMA)
    yield api
    api.older.close()


def stamps(api: Api, body: str) -> list[str]:
    answer = api.get("/api/v1.3/containers/a", "POST", body.encode())
    assert answer.status == 200, answer
    return [s["timestamp"] for s in answer.json.get("stats", [])]


def test_without_times_the_memory_alone_is_asked(api: Api) -> None:
    assert len(stamps(api, '{"num_stats": -1}')) == 120
    assert len(stamps(api, '{"num_stats": 500}')) == 120


def test_a_start_before_the_memory_is_answered_from_sql_without_a_seam(api: Api) -> None:
    got = stamps(api, '{"num_stats": -1, "start": "2023-11-15T00:11:00Z"}')
    assert len(got) == 140
    assert got == sorted(got)
    assert (got[0], got[-1]) == ("2023-11-15T00:11:00Z", "2023-11-15T00:13:19Z")
    assert len(set(got)) == 140


def test_the_newest_of_a_span_that_reaches_both(api: Api) -> None:
    got = stamps(api, '{"num_stats": 130, "start": "2023-11-15T00:00:00Z"}')
    assert (len(got), got[0], got[-1]) == (130, "2023-11-15T00:11:10Z", "2023-11-15T00:13:19Z")


def test_a_span_long_before(api: Api) -> None:
    got = stamps(api, '{"start": "2023-11-14T22:20:00Z", "end": "2023-11-14T22:20:10Z"}')
    assert (len(got), got[0], got[-1]) == (11, "2023-11-14T22:20:00Z", "2023-11-14T22:20:10Z")
    assert stamps(api, '{"num_stats": 2, "end": "2023-11-14T22:20:10Z"}') == got[-2:]


def test_a_store_that_does_not_answer_is_an_error(api: Api, tmp_path: Path) -> None:
    api.older = SqlHistory(tmp_path / "none.db")
    answer = api.get("/api/v1.3/containers/a", "POST", b'{"num_stats": -1, "start": "2023-11-14T22:20:00Z"}')
    assert answer.status == 503


def test_the_summary_is_over_all_that_is_stored(api: Api) -> None:
    found = api.get("/api/v2.0/summary/a").json["/a"]
    assert found["timestamp"] == "2023-11-15T00:13:19Z"
    assert found["latest_usage"] == {"cpu": CPU_MS[-2], "memory": 1000 + 2 * HOUR - 1}
    for name, seconds in (("minute_usage", 60), ("hour_usage", HOUR)):
        assert found[name]["percent_complete"] == 100
        wanted = sorted(CPU_MS[-1 - seconds : -1])
        cpu = found[name]["cpu"]
        # the one interval between the last stored and the first held sample belongs to neither
        assert abs(cpu["count"] - seconds) <= 1
        for word, part in (("fifty", 0.5), ("ninety", 0.9), ("ninetyfive", 0.95)):
            place = int(part * seconds)
            assert wanted[place - 2] <= cpu[word] <= wanted[place + 1]
        assert cpu["max"] == wanted[-1]
        assert abs(cpu["mean"] - sum(wanted) / seconds) < 2
    day = found["day_usage"]
    assert day["percent_complete"] == 8
    assert day["memory"]["fifty"] == pytest.approx(1000 + HOUR, abs=2)
    assert day["memory"]["max"] == 1000 + 2 * HOUR - 1


def test_without_a_sample_there_is_no_summary() -> None:
    api = Api()
    api.write(CONTAINER)
    assert api.get("/api/v2.0/summary?recursive=true").json == {}


def test_no_time_for_the_store_leaves_the_day_incomplete(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "BUDGET_S", -1.0)
    found = api.get("/api/v2.0/summary/a").json["/a"]
    assert found["hour_usage"]["percent_complete"] == 3
    assert found["minute_usage"]["percent_complete"] == 100


def test_a_store_that_does_not_answer_leaves_the_day_incomplete(api: Api, tmp_path: Path) -> None:
    api.older = SqlHistory(tmp_path / "none.db")
    found = api.get("/api/v2.0/summary/a").json["/a"]
    assert (found["minute_usage"]["percent_complete"], found["day_usage"]["percent_complete"]) == (100, 0)


def test_percentiles_weigh_by_time() -> None:
    found = percentiles([Span(10, 900), Span(1000, 50), Span(500, 50)])
    assert (found.fifty, found.ninety, found.ninetyfive, found.max, found.count) == (10, 10, 500, 1000, 3)
    assert found.mean == 84


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_of_equal_weights_each_percentile_is_one_of_the_values(values: list[int]) -> None:
    found = percentiles(Span(v, 1000) for v in values)
    for got, part in ((found.fifty, 50), (found.ninety, 90), (found.ninetyfive, 95)):
        assert got in values
        assert sum(v <= got for v in values) * 100 >= part * len(values)
        assert sum(v < got for v in values) * 100 < part * len(values)
    assert min(values) <= found.mean <= max(values)


def test_no_rate_over_epochs_falls_and_silence() -> None:
    points = [Point(1, 0, 0, 1), Point(1, 1000, 10**9, 1), Point(1, 2000, 5, 1), Point(2, 3000, 10**9, 1)]
    points += [Point(2, 99_000, 10**9, 1)]
    assert rates(points, 61_000) == [Span(1000, 1000)]
    assert usage([], 60_000, 61_000).percent_complete == 0


def test_columns_of_the_sql_store(file: Path) -> None:
    history = SqlHistory(file)
    assert history.first_ms(CONTAINER.instance) == START_MS
    assert history.first_ms("0" * 16) is None
    rows = history.columns(CONTAINER.instance, ("memory_working_set_bytes",), START_MS + 1000, START_MS + 2000)
    assert list(rows) == [(0, START_MS + 1000, 1001), (0, START_MS + 2000, 1002)]
    with pytest.raises(ValueError, match="nonsense"):
        history.columns(CONTAINER.instance, ("nonsense; DROP",), 0, 1)
    history.close()


def test_a_question_that_takes_too_long_is_given_up(api: Api, file: Path) -> None:
    api.older = SqlHistory(file, limit_s=0.0)
    answer = api.get("/api/v1.3/containers/a", "POST", b'{"num_stats": -1, "start": "2023-11-14T22:20:00Z"}')
    assert answer.status == 503
    assert "interrupted" in answer.text
