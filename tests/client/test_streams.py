"""Streams of events: ended, broken off, silent, closed from elsewhere, connected again."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.serving import Request, Script, Server, answer, chunk, stream, waits_for

from tidegauge.client import (
    AnswerTooLarge,
    Client,
    ConnectionFailed,
    Event,
    EventQuery,
    EventStream,
    HttpError,
    Missed,
    RecordedEvent,
    RecordedEventQuery,
    TimedOut,
    WrongAnswer,
)
from tidegauge.client import streams as streams_module
from tidegauge.client.events import decode_event


def _line(name: str) -> bytes:
    return b'{"container_name":"%s","event_type":"oom"}\n' % name.encode()


def _names(events: EventStream[Event]) -> list[str]:
    return [event.container_name for event in events]


def _open(server: Server, **options: Any) -> EventStream[Event]:
    return Client(server.url, timeout_s=30).stream_events(**options)


def test_it_ends_when_the_server_ends_it() -> None:
    with Server(stream(b"\n", _line("/a") + _line("/b"), b"\n\r\n", _line("/c"))) as server, _open(server) as events:
        assert _names(events) == ["/a", "/b", "/c"]
        assert list(events) == []


def test_half_a_line_is_not_an_event() -> None:
    with Server(stream(_line("/a") + _line("/b")[:20])) as server, _open(server) as events:
        assert next(events).container_name == "/a"
        with pytest.raises(ConnectionFailed, match="within a line"):
            next(events)
        assert list(events) == []


def test_a_connection_that_breaks_off() -> None:
    with Server(stream(_line("/a"), ends=False)) as server, _open(server) as events:
        assert next(events).container_name == "/a"
        with pytest.raises(ConnectionFailed):
            next(events)


def test_silence_beyond_the_idle_time() -> None:
    done = threading.Event()
    with Server(waits_for(done, b"\n", _line("/a"), b"\n")) as server:
        with _open(server, idle_s=0.1) as events:
            assert next(events).container_name == "/a"
            with pytest.raises(TimedOut, match=r"within 0\.1 s"):
                next(events)
        done.set()


def test_signs_of_life_hold_it_open() -> None:
    done = threading.Event()

    def lives(connection: Any, request: Request) -> None:
        stream(b"\n", ends=False)(connection, request)
        for _ in range(20):
            assert not done.wait(0.02)
            connection.sendall(chunk(b"\n"))
        connection.sendall(chunk(_line("/a")) + b"0\r\n\r\n")

    with Server(lives) as server, _open(server, idle_s=10) as events:
        assert _names(events) == ["/a"]


def test_another_thread_closes_it() -> None:
    done, seen, found = threading.Event(), threading.Event(), list[str]()
    with Server(waits_for(done, _line("/a"))) as server:
        events = _open(server)

        def follow() -> None:
            for event in events:
                found.append(event.container_name)
                seen.set()

        thread = threading.Thread(target=follow)
        thread.start()
        assert seen.wait(30)
        events.close()
        thread.join(30)
        assert not thread.is_alive()
        events.close()
        done.set()
    assert found == ["/a"]


def test_it_is_closed_before_it_is_read() -> None:
    done = threading.Event()
    with Server(waits_for(done, _line("/a"))) as server:
        events = _open(server)
        events.close()
        assert list(events) == []
        done.set()


def test_a_line_that_is_no_event() -> None:
    with Server(stream(b"nonsense\n" + b'{"event_data":[]}\n' + _line("/a"))) as server, _open(server) as events:
        with pytest.raises(WrongAnswer):
            next(events)
        with pytest.raises(WrongAnswer) as caught:
            next(events)
        assert caught.value.path == "$.event_data"
        assert _names(events) == ["/a"]


def test_a_line_without_end() -> None:
    with Server(stream(*[b"x" * 65536] * 17)) as server, _open(server) as events, pytest.raises(AnswerTooLarge):
        next(events)


def test_it_connects_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module.random, "uniform", lambda low, high: 0.01)
    broken: tuple[Script, ...] = (
        stream(_line("/a") + b'{"half'),
        answer(b"wait", "503 Busy"),
        lambda connection, request: None,
        stream(_line("/b"), ends=False),
        stream(_line("/c")),
        stream(_line("/d")),
    )
    with Server(*broken) as server, _open(server, reconnects=True) as events:
        assert [next(events).container_name for _ in range(4)] == ["/a", "/b", "/c", "/d"]
        assert events.connections == 4


def test_a_refusal_that_lasts_ends_even_a_stream_that_connects_again() -> None:
    with Server(stream(_line("/a")), answer(b"go away", "403 Forbidden")) as server, _open(server, reconnects=True) as events:
        assert next(events).container_name == "/a"
        with pytest.raises(HttpError, match="go away"):
            next(events)
        assert list(events) == []


def test_the_first_connection_fails_at_once() -> None:
    with Server(answer(b"busy", "503 Busy")) as server, pytest.raises(HttpError, match="503"):
        _open(server, reconnects=True)


def test_it_is_closed_while_it_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module.random, "uniform", lambda low, high: 1000.0)
    with Server(stream(_line("/a"))) as server:
        events = _open(server, reconnects=True)
        assert next(events).container_name == "/a"
        thread = threading.Thread(target=lambda: list(events))
        thread.start()
        events.close()
        thread.join(30)
        assert not thread.is_alive()


def test_own_events_and_those_missed() -> None:
    lines = b'\n{"missed":12}\n{"ts_ms":1,"kind":"oom_kill","path":"/a","name":"web","details":{"pid":7}}\n'
    with Server(stream(lines)) as server, Client(server.url) as client:
        with client.tidegauge.stream_events(RecordedEventQuery(kinds=["oom_kill"], path="/a")) as events:
            found = list(events)
        event = RecordedEvent(ts_ms=1, kind="oom_kill", path="/a", name="web", details={"pid": 7})
        assert found == [Missed(missed=12), event]
    assert server.requests[0].target == "/api/v1/events?path=%2Fa&subcontainers=true&stream=true&kind=oom_kill"


def test_a_stream_has_no_times() -> None:
    from datetime import UTC, datetime

    with Server(stream()) as server, Client(server.url) as client:
        with pytest.raises(ValueError, match="start_time: a stream"):
            client.stream_events(query=EventQuery(start_time=datetime.now(UTC)))
        with pytest.raises(ValueError, match="zone"):
            client.events(query=EventQuery(start_time=datetime(2026, 1, 1)))
        with pytest.raises(ValueError, match="types: expected some of"):
            client.events(query=EventQuery(types=["OOM"]))  # type: ignore[list-item]


class _Pieces:
    """Stands for an answer that comes in these pieces."""

    connection = None

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def read1(self, size: int, decode_content: bool) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None: ...


class _Transport:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def open(self, target: str, idle_s: float | None = None) -> _Pieces:
        return _Pieces(self._pieces)

    url: Callable[..., str] = lambda self, target: target


@given(st.lists(st.sampled_from(["/a", "/b c", "/ä"]), max_size=8), st.data())
def test_however_it_is_cut_the_events_are_the_same(names: list[str], data: st.DataObject) -> None:
    whole = b"\n".join([b"", *map(_line, names)])
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(whole) - 1, 1)), max_size=12)))
    pieces = [p for p in (whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)) if p]
    events = EventStream(_Transport(pieces), "/", decode_event, idle_s=None, reconnects=False)  # type: ignore[arg-type]
    assert _names(events) == names
