"""`/metrics` over HTTP: formats, compression, one page for many, and what ends with its container."""

import gzip
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient
from tests.api.exposition_rig import full_host, parsed

from tidegauge.api.exposition import endpoint
from tidegauge.api.exposition.endpoint import OPENMETRICS, TEXT, Exposition, accepts_gzip, wants_openmetrics
from tidegauge.pipeline.groups import GROUPS
from tidegauge.pipeline.latest import Latest
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.telemetry import Family, one

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


class Store:
    def __init__(self) -> None:
        self.generation = 1
        self.containers = full_host()
        self.before: Callable[[], object] = lambda: None

    def latest(self) -> Sequence[tuple[Container, Latest | None]]:
        self.before()
        return self.containers


class View:
    def __init__(self) -> None:
        self.store: Store | None = Store()

    def latest(self) -> Store | None:
        return self.store

    def families(self) -> list[Family]:
        return [one("tidegauge_own_total", "counter", 'Help with a "quote".', 3)]


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def exposition(view: View) -> Exposition:
    return Exposition(view, lambda: [one("tidegauge_more", "gauge", "More.", 4)], GROUPS, has_timestamps=False)


@pytest.fixture
def client(exposition: Exposition) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=[Route("/metrics", exposition.answer)])) as client:
        yield client


def ask(client: TestClient, **headers: str) -> Any:
    return client.get("/metrics", headers={"Accept": "", "Accept-Encoding": "identity"} | headers)


@pytest.mark.parametrize(
    ("accept", "is_wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (PROMETHEUS_2, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ('application/openmetrics-text; version="1.0.0"', True),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=0, */*", False),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.5", False),
        ("text/plain;version=0.0.4;q=0.2,application/openmetrics-text;version=0.0.1;q=0.5", True),
        ("application/openmetrics-text;q=nonsense", False),
        ("application/openmetrics-text;q=9", False),
        (",;=,;;q", False),
    ],
)
def test_openmetrics_is_for_those_who_prefer_it(accept: str, is_wanted: bool) -> None:
    assert wants_openmetrics(accept) is is_wanted


@pytest.mark.parametrize(
    ("header", "is_taken"),
    [("", False), ("gzip", True), ("deflate, GZIP;q=0.5", True), ("gzip;q=0", False), ("*", True), ("gzip;q=0, *", False)],
)
def test_gzip_is_for_those_who_take_it(header: str, is_taken: bool) -> None:
    assert accepts_gzip(header) is is_taken


def test_both_formats_are_whole_and_end_with_our_own_counters(client: TestClient) -> None:
    text = ask(client)
    assert text.headers["content-type"] == TEXT
    assert int(text.headers["content-length"]) == len(text.content)
    page = parsed(text.text)
    assert page.value("tidegauge_own_total") == 3
    assert text.text.endswith("tidegauge_more 4\n")
    other = ask(client, Accept=PROMETHEUS_2)
    assert other.headers["content-type"] == OPENMETRICS
    assert other.text.endswith("tidegauge_more 4\n# EOF\n")
    openmetrics = parsed(other.text, is_openmetrics=True)
    fixed = [s for s in page.series if s.name != "container_last_seen"]
    assert [s for s in openmetrics.series if s.name != "container_last_seen"] == fixed
    assert openmetrics.kinds["tidegauge_own"] == "counter"


def test_head_tells_the_size_alone(client: TestClient) -> None:
    head = client.head("/metrics", headers={"Accept-Encoding": "identity"})
    assert head.status_code == 200
    assert int(head.headers["content-length"]) > 1000


def test_the_compressed_page_is_the_page(client: TestClient) -> None:
    plain = ask(client).content
    with client.stream("GET", "/metrics", headers={"Accept": "", "Accept-Encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
        assert int(answer.headers["content-length"]) == len(raw)
        assert "accept-encoding" in answer.headers["vary"].lower()
    assert gzip.decompress(raw) == plain


def test_a_page_is_made_once_between_two_ticks(
    client: TestClient, exposition: Exposition, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_FRESH_S", 1000.0)
    assert view.store is not None
    first = ask(client).content
    assert ask(client).content == first
    assert ask(client, **{"Accept-Encoding": "gzip"}).content == first
    assert exposition.pages_made == 1
    view.store.generation += 1
    ask(client)
    assert exposition.pages_made == 2
    monkeypatch.setattr(endpoint, "_FRESH_S", 0.0)
    ask(client)
    assert exposition.pages_made == 3


def test_those_who_ask_while_a_page_is_made_get_that_page(client: TestClient, exposition: Exposition, view: View) -> None:
    assert view.store is not None
    asked = threading.Semaphore(0)
    go_on = threading.Event()

    def hold() -> None:
        asked.release()
        assert go_on.wait(60)

    view.store.before = hold
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, client)
        assert asked.acquire(timeout=60)
        others = [pool.submit(ask, client) for _ in range(3)]
        # nobody else reads the store: all but the first wait without a thread of their own
        assert not asked.acquire(timeout=0.1)
        go_on.set()
        bodies = {f.result(60).content for f in (first, *others)}
    assert exposition.pages_made <= 2
    assert len(bodies) <= 2


def test_a_container_that_ended_is_gone_from_the_next_page(client: TestClient, view: View) -> None:
    assert view.store is not None
    assert parsed(ask(client).text).values("container_memory_rss", id="/docker/abc")
    view.store.containers = [pair for pair in view.store.containers if pair[0].path != "/docker/abc"]
    view.store.generation += 1
    assert not [s for s in parsed(ask(client).text).series if ("id", "/docker/abc") in s.labels]


def test_without_a_store_no_container_is_shown_and_our_own_counters_are(client: TestClient, view: View) -> None:
    ask(client)
    view.store = None
    page = parsed(ask(client).text)
    assert page.value("container_scrape_error") == 1
    assert page.values("container_last_seen") == []
    assert page.value("tidegauge_own_total") == 3


def test_a_page_that_could_not_be_made_is_tried_again(client: TestClient, view: View) -> None:
    assert view.store is not None

    def fail() -> None:
        raise RuntimeError("no")

    view.store.before = fail
    with pytest.raises(RuntimeError):
        ask(client)
    view.store.before = lambda: None
    assert ask(client).status_code == 200
