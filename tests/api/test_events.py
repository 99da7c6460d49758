"""`/api/v1/events`: parameters, the page, and streams with readers of every speed; a real server, real sockets."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.routing import Route
from tests.e2e.program import eventually

from tidegauge.api import events as events_module
from tidegauge.api.events import BadQuery, EventPages, parse
from tidegauge.api.guard import Guard
from tidegauge.api.http_server import HttpServer
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.event_store import EventQuery, EventStore
from tidegauge.pipeline.records import Event
from tidegauge.pipeline.testing import START_MS


@pytest.mark.parametrize(
    ("text", "query", "is_stream"),
    [
        ("", EventQuery(limit=1000), False),
        ("limit=0", EventQuery(), False),
        (
            "kind=oom,oom_kill&kind=creation&limit=7",
            EventQuery(kinds=frozenset({"oom", "oom_kill", "creation"}), limit=7),
            False,
        ),
        ("path=/a&subcontainers=false&stream=true", EventQuery(path="/a", subcontainers=False, limit=1000), True),
        ("start=1700000000000&end=2023-11-14T22:13:21Z", EventQuery(1_700_000_000_000, 1_700_000_001_000, limit=1000), False),
        ("start=2023-11-14T23:13:20.5%2B01:00", EventQuery(1_700_000_000_500, limit=1000), False),
        ("start=2023-11-14T23:13:20+01:00", EventQuery(1_700_000_000_000, limit=1000), False),
    ],
)
def test_parameters(text: str, query: EventQuery, is_stream: bool) -> None:
    assert parse(QueryParams(text)) == (query, is_stream)


@pytest.mark.parametrize(
    "text",
    [
        "strat=1",
        "start=yesterday",
        "start=2023-11-14T22:13:20",
        "end=",
        "limit=-1",
        "limit=x",
        "limit=9" * 30,
        "path=a",
        "stream=maybe",
        "subcontainers=",
        "start=99999999999999999999",
    ],
)
def test_wrong_parameters_are_named(text: str) -> None:
    with pytest.raises(BadQuery, match=f"^{text.partition('=')[0]}: expected "):
        parse(QueryParams(text))


class Listener:
    """The route behind its guard on a real server; requests may take 0.5 s."""

    def __init__(self) -> None:
        self.store: EventStore | None = EventStore()
        self.pages = EventPages(lambda: self.store)
        config = HttpConfig(request_timeout_s=0.5, max_connections=50)
        app = Guard(Starlette(routes=[Route("/events", self.pages.answer)]), config, ["here"])
        self.server = HttpServer(app, config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        self.clients: list[http.client.HTTPConnection] = []

    def add(self, number: int, text: str = "") -> None:
        assert self.store is not None
        self.store.add(Event(START_MS + number, "oom", None, {"path": "/a", "number": number, "text": text}, number), None)

    def ask(self, query: str = "", method: str = "GET") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(*self.socket.getsockname(), timeout=60)
        # small buffers: what a reader has not taken waits in the program and not in the kernel
        connection.sock = socket.socket()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.sock.settimeout(60)
        connection.sock.connect(self.socket.getsockname())
        self.clients.append(connection)
        connection.request(method, f"/events?{query}")
        return connection.getresponse()

    def stream(self, query: str = "") -> http.client.HTTPResponse:
        response = self.ask(f"stream=true&{query}")
        assert response.status == 200
        assert response.readline() == b"\n"
        return response

    def leave(self) -> None:
        """Every client goes."""
        for client in self.clients:
            client.close()
        self.clients = []

    def close(self) -> None:
        self.leave()
        self.server.stop()
        self.thread.join(30)
        self.socket.close()
        assert not self.thread.is_alive()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def next_event(response: http.client.HTTPResponse) -> dict[str, Any]:
    while not (line := response.readline()).strip():
        assert line, "the stream ended"
    event: dict[str, Any] = json.loads(line)
    return event


def test_a_page_of_events(listener: Listener) -> None:
    assert listener.store is not None
    listener.store._now_ms = lambda: START_MS
    for i in range(5):
        listener.add(i)
    response = listener.ask("limit=2&path=/a")
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(response.read()) == [
        {"ts_ms": START_MS + i, "kind": "oom", "path": "/a", "details": {"number": i, "text": ""}} for i in (3, 4)
    ]
    assert json.loads(listener.ask("path=/b").read()) == []


def test_what_cannot_be_answered(listener: Listener) -> None:
    response = listener.ask("limit=many")
    assert (response.status, response.read()) == (400, b"limit: expected a number from 0, which stands for all, got 'many'\n")
    assert listener.ask("stream=true", "HEAD").status == 200
    listener.store = None
    assert listener.ask().status == 503
    assert listener.ask("stream=true").status == 503


def test_a_stream_goes_on_beyond_the_time_of_a_request(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The empty lines are more often here: ten of them are longer than a request may take."""
    monkeypatch.setattr(events_module, "HEARTBEAT_S", 0.1)
    listener.add(0)
    stream = listener.stream("kind=oom")
    for _ in range(10):
        assert stream.readline() == b"\n"
    for i in range(1, 4):
        listener.add(i)
        assert next_event(stream)["details"]["number"] == i
    stream.close()


def test_streams_are_bounded_and_their_places_come_back(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MAX_STREAMS", 2)
    monkeypatch.setattr(events_module, "HEARTBEAT_S", 0.05)
    streams = [listener.stream() for _ in range(2)]
    assert listener.ask("stream=true").status == 503
    assert listener.ask().status == 200
    for stream in streams:
        stream.close()
    listener.leave()
    eventually(lambda: listener.pages.streams == 0, why="a stream outlives its client")
    assert listener.store is not None
    eventually(lambda: not listener.store or not listener.store._subscriptions, why="a subscription outlives its client")
    listener.stream().close()


def test_a_slow_reader_is_told_what_it_missed_and_holds_nobody_up(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not read while far more comes than all buffers between hold; a second reader gets everything meanwhile."""
    monkeypatch.setattr(events_module, "READER_S", 600.0)
    slow, fast = listener.stream(), listener.stream()
    got: list[int] = []

    def read() -> None:
        while len(got) < 4000 and (event := next_event(fast)):
            got.append(event["details"]["number"])

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(4000):
        if i - len(got) > 500:
            eventually(lambda i=i: i - len(got) < 250, 120, "the fast reader is held up")
        listener.add(i, "x" * 4000)
    reader.join(120)
    assert got == list(range(4000))
    missed, numbers = 0, []
    while not numbers or numbers[-1] < 3999:
        event = next_event(slow)
        if "missed" in event:
            missed += event["missed"]
        else:
            numbers.append(event["details"]["number"])
    assert missed > 0
    assert numbers == sorted(numbers)
    assert missed + len(numbers) == 4000
    slow.close()
    fast.close()


def test_a_stream_ends_with_the_store(listener: Listener) -> None:
    stream = listener.stream()
    assert listener.store is not None
    listener.add(1)
    assert next_event(stream)["details"]["number"] == 1
    listener.store.close()
    assert stream.read().strip() == b""
