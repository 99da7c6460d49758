"""The collector: who may announce, when endpoints are asked, what becomes of failures, and that nobody waits for another."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tidegauge.collectors.app import collector as module
from tidegauge.collectors.app.announced import PREFIX, Refused
from tidegauge.collectors.app.collector import AppCollector, AppConfig, AppReader, joined
from tidegauge.collectors.app.exposition import Column
from tidegauge.collectors.app.scrape import Answer, Request, Target
from tidegauge.collectors.app.workers import Scraper, Workers
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import ConfigError, NoData
from tidegauge.pipeline.plugin import Metadata, MetadataUser
from tidegauge.pipeline.reading import Source
from tidegauge.pipeline.records import Container, TableRows
from tidegauge.pipeline.slow import SlowReadings

CONFIG = b'{"endpoint": "http://localhost:8000/metrics"}'
SAID = Metadata(
    name="web", aliases=("web", "abc"), labels={PREFIX + "prometheus": "/p.json"}, addresses=("10.0.0.2",), network="own", pid=7
)


def container(number: int = 2, path: str = "/docker/abc") -> Container:
    return Container(number, "source", f"i{number}", 0, "boot", path, "host", 0, 0)


class Bench:
    """A collector with a clock, files and endpoints of the test's own; jobs run at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.now_s = 1000.0
        self.said: dict[str, Metadata] = {"i2": SAID}
        self.files: dict[str, bytes | Exception] = {"/p.json": CONFIG}
        self.answer: Answer | Exception = Answer((("hits", Column.COUNTER, 1.0),))
        self.asked: list[Request] = []
        self.opened: list[tuple[Any, ...]] = []
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(module, "read_file", self._read_file)
        self.collector = AppCollector(AppConfig(containers=("web",), **options))
        self.collector.workers = self  # type: ignore[assignment]
        self.collector.use_metadata(self.said.get)
        self.slow = SlowReadings(Source.of("app", self.collector))
        self.slow.containers = (container(1, "/"), container())

    def submit(self, job: Callable[[Any], None]) -> None:
        job(self)

    def trim(self) -> None: ...

    def ask(self, request: Request) -> Answer:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _read_file(self, *arguments: Any) -> bytes:
        self.opened.append(arguments)
        content = self.files[arguments[3]]
        if isinstance(content, Exception):
            raise content
        return content

    def rows(self, after_s: float = 0.0) -> TableRows | None:
        """What the slow collector has for the container after a round; None: nothing."""
        self.now_s += after_s
        self.slow.run()
        result = self.slow.take(2)
        if result is None:
            return None
        values, tables = result
        assert values == ()
        return tables[0]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_rows_are_those_of_the_catalogue_s_table(bench: Bench) -> None:
    assert len(Catalogue().of_table("app")) == len(Column)
    bench.answer = Answer((("hits", Column.COUNTER, 1.0), ("load", Column.GAUGE, 0.5), ("jobs", Column.INTEGER_GAUGE, 3)))
    assert bench.rows() == (
        ("hits", 1.0, None, None, None, None, None, None),
        ("load", None, 0.5, None, None, None, None, None),
        ("jobs", None, None, None, None, None, None, 3),
    )
    assert bench.opened == [("/proc", 7, "/docker/abc", "/p.json", 5.0)]
    assert bench.asked[0].target == Target(False, "10.0.0.2", 8000, "/metrics")


def test_nobody_is_followed_unless_a_setting_says_so() -> None:
    collector = AppCollector(AppConfig())
    collector.use_metadata(lambda instance: SAID)
    assert collector.reader(container()) is None
    assert isinstance(collector, MetadataUser)


def test_without_runtimes_there_are_no_announcements() -> None:
    with pytest.raises(NoData, match="only while tidegauge runs"):
        AppCollector(AppConfig(containers=("*",))).reader(container())


@pytest.mark.parametrize(
    ("pattern", "is_followed"),
    [("web", True), ("w?b", True), ("abc", True), ("/docker/*", True), ("db", False), ("/docker", False), ("WEB", False)],
)
def test_patterns_of_path_name_and_alias(pattern: str, is_followed: bool) -> None:
    collector = AppCollector(AppConfig(containers=(pattern,)))
    collector.use_metadata(lambda instance: SAID)
    if is_followed:
        assert collector.reader(container()) is not None
    else:
        with pytest.raises(NoData):
            collector.reader(container())


def test_labels_that_come_late_are_followed(bench: Bench) -> None:
    del bench.said["i2"]
    assert bench.rows() is None
    bench.said["i2"] = msgspec.structs.replace(SAID, labels={})
    assert bench.rows() is None
    assert bench.asked == []
    bench.said["i2"] = SAID
    assert bench.rows() is not None


def test_each_endpoint_has_its_own_interval(bench: Bench) -> None:
    bench.files["/p.json"] = CONFIG.replace(b"}", b', "polling_frequency": 30000000000}')
    came = [bench.rows(after_s=1) is not None for _ in range(65)]
    assert [i for i, is_there in enumerate(came) if is_there] == [0, 30, 60]
    assert len(bench.opened) == 1


def test_a_failure_is_told_waited_out_and_forgotten(bench: Bench) -> None:
    bench.answer = Refused("it\x1b answers HTTP 500")
    assert bench.rows() is None
    assert bench.collector.complaint() == "/docker/abc: io.cadvisor.metric.prometheus: it\ufffd answers HTTP 500"
    asked = []
    for _ in range(200):
        bench.rows(after_s=1)
        asked.append(len(bench.asked))
    assert [i for i in range(1, 200) if asked[i] > asked[i - 1]] == [19, 59, 139]
    assert len(bench.opened) == len(bench.asked)  # the file may have been mended meanwhile
    bench.answer = Answer((("hits", Column.COUNTER, 2.0),))
    assert bench.rows(after_s=300) is not None
    assert bench.collector.complaint() is None
    assert bench.collector.counters() == {"scrapes": 5, "scrape_errors": 4, "left_out_series": 0}


def test_a_bug_is_a_fault_of_this_endpoint_alone(bench: Bench) -> None:
    bench.answer = ZeroDivisionError("division by zero")
    assert bench.rows() is None
    assert "ZeroDivisionError" in str(bench.collector.complaint())


def test_one_expression_without_a_value_is_told_and_the_others_stay(bench: Bench) -> None:
    bench.answer = Answer((("hits", Column.COUNTER, 2.0),), 0, ("metrics_config[1]: its expression finds nothing",))
    assert bench.rows() is not None
    assert "metrics_config[1]" in str(bench.collector.complaint())
    assert bench.rows(after_s=10) is not None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"network": "host"}, "no network of its own"),
        ({"network": "container:x"}, "no network of its own"),
        ({"addresses": ()}, "no address of its own"),
        ({"pid": None}, "does not tell its process"),
    ],
)
def test_without_an_address_or_a_process_of_its_own_nothing_is_opened(bench: Bench, change: dict[str, Any], why: str) -> None:
    bench.said["i2"] = msgspec.structs.replace(SAID, **change)
    assert bench.rows() is None
    assert why in str(bench.collector.complaint())
    assert bench.opened == bench.asked == []


def test_what_changes_is_begun_anew_and_the_rest_goes_on(bench: Bench) -> None:
    bench.rows()
    more = msgspec.structs.replace(SAID, labels={**SAID.labels, PREFIX + "prometheus2": "/p.json"})
    bench.said["i2"] = more
    bench.rows(after_s=1)
    assert len(bench.asked) == 2
    bench.said["i2"] = msgspec.structs.replace(more, addresses=("10.0.0.9",), pid=8)
    bench.rows(after_s=1)
    assert [r.target.address for r in bench.asked] == ["10.0.0.2", "10.0.0.2", "10.0.0.9", "10.0.0.9"]
    bench.said["i2"] = msgspec.structs.replace(SAID, labels={})
    assert bench.rows(after_s=100) is None
    assert len(bench.asked) == 4


def test_a_series_has_a_value_only_when_its_endpoint_was_asked(bench: Bench) -> None:
    bench.said["i2"] = msgspec.structs.replace(SAID, labels={PREFIX + "prometheus": "/p.json", PREFIX + "slow": "/s.json"})
    bench.files["/s.json"] = b'{"endpoint": "http://localhost/", "metrics_config": [{"name": "x", "regex": "(x)"}]}'
    bench.files["/p.json"] = CONFIG.replace(b"}", b', "polling_frequency": 5000000000}')
    answers = iter([Answer((("a", 0, 1.0),)), Answer((("b", 0, 2.0),)), Answer((("a", 0, 3.0),))])
    bench.ask = lambda request: next(answers)  # type: ignore[method-assign]
    rows = bench.rows()
    assert rows is not None
    assert {r[0]: r[1] for r in rows} == {"a": 1.0, "b": 2.0}
    rows = bench.rows(after_s=5)
    assert rows is not None
    assert {r[0]: r[1:] for r in rows} == {"a": (3.0, *(None,) * 6), "b": (None,) * 7}, "what was not asked has no value"


def test_what_an_endpoint_said_before_it_failed_is_not_told_again(bench: Bench) -> None:
    bench.said["i2"] = msgspec.structs.replace(
        SAID, labels={PREFIX + "prometheus": "/p.json", PREFIX + "prometheus2": "/q.json"}
    )
    bench.files["/q.json"] = CONFIG
    answers: Any = iter([Answer((("a", 0, 1.0),)), Answer((("b", 0, 2.0),)), Refused("gone"), Answer((("b", 0, 3.0),))])

    def ask(request: Request) -> Answer:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    bench.ask = ask  # type: ignore[method-assign]
    assert {row[0] for row in bench.rows() or ()} == {"a", "b"}
    assert {row[0] for row in bench.rows(after_s=10) or ()} == {"b"}


def test_a_container_that_is_gone_is_forgotten(bench: Bench) -> None:
    bench.answer = Refused("never")
    bench.rows()
    assert bench.collector.complaint() is not None
    bench.slow.containers = ()
    bench.slow.run()
    assert bench.collector.complaint() is None


def test_limits_hold_for_a_container_s_endpoints_together() -> None:
    one = tuple((f'a{{n="{i}"}}', 0, 1.0) for i in range(5))
    two = tuple((f"b{i}", 1, 1.0) for i in range(5))
    rows, left_out = joined([(one, True), (two, True)], AppConfig(metrics_limit=3))
    assert ([r[0] for r in rows], left_out) == ([*(s for s, _, _ in one), "b0", "b1"], 3)
    rows, left_out = joined([(one, True), (two, True)], AppConfig(series_limit=4))
    assert (len(rows), left_out) == (4, 6)
    rows, _ = joined([(one, True), (one, False)], AppConfig())
    assert [r[1] for r in rows] == [1.0] * 5, "of two endpoints with one series the one that was asked counts"


def test_series_left_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, metrics_limit=1)
    bench.answer = Answer((("a", 0, 1.0), ("b", 0, 1.0)), 0)
    assert [r[0] for r in bench.rows() or ()] == ["a"]
    assert "1 series left out" in str(bench.collector.complaint())
    assert bench.collector.counters()["left_out_series"] == 1


def test_a_file_of_authorities_must_hold_some(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("none", "empty"):
        with pytest.raises(ConfigError, match=r"collectors\.app\.ca_file: expected a file in PEM"):
            AppCollector(AppConfig(ca_file=tmp_path / name))


def test_jobs_beyond_the_bound_wait_their_turn_and_no_others() -> None:
    workers = Workers(2)
    go, done = threading.Event(), threading.Event()
    begun: list[int] = []
    hanging = threading.Semaphore(0)

    def hang(scraper: Scraper) -> None:
        begun.append(1)
        hanging.release()
        go.wait(60)

    workers.submit(hang)
    hanging.acquire(timeout=60)
    workers.submit(lambda scraper: done.set())
    assert done.wait(60)  # one hangs, and the other thread goes on
    workers.submit(hang)
    hanging.acquire(timeout=60)
    third = threading.Event()
    workers.submit(lambda scraper: third.set())
    assert not third.is_set()
    assert len(begun) == 2
    go.set()
    assert third.wait(60)
    workers.stop()
    workers.stop()


def test_readers_of_two_instances_do_not_share() -> None:
    collector = AppCollector(AppConfig(containers=("*",)))
    collector.use_metadata(lambda instance: SAID)
    one, two = collector.reader(container(2)), collector.reader(container(3))
    assert isinstance(one, AppReader)
    assert one is not two
    collector.close()
