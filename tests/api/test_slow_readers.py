"""Clients that ask for what is long and do not take it: they are let go, hold little meanwhile, and others are served."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.api.access import Listener, View, get, listening
from tests.api.exposition_rig import everything, full_sample
from tests.e2e.program import eventually

from tidegauge.api import events, http_server
from tidegauge.api.cadvisor import routes
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.event_store import EventStore
from tidegauge.pipeline.records import Event
from tidegauge.pipeline.testing import START_MS, make_batch, make_container
from tidegauge.sinks.memory import MemoryConfig, MemorySink

CONTAINERS = 600
CLIENTS = 12
LONG = "/api/v1.3/subcontainers/"
_rows = itertools.count(10_000)
"""Over all tests: the sink is one, and takes a row that it has seen for a repeat."""


@pytest.fixture(scope="module")
def sink() -> MemorySink:
    """So many containers that every long answer is far longer than what sockets hold."""
    sink = MemorySink(MemoryConfig(storage_duration_s=1e9, limit_bytes=1 << 30))
    schema = everything()
    containers = [make_container(1, "/"), *(make_container(n, f"/c{n}") for n in range(2, CONTAINERS + 1))]
    samples = [full_sample(schema, c.number) for c in containers]
    sink.write([*containers, make_batch(samples, containers, (schema,))])
    return sink


class _Full(View):
    def __init__(self, sink: MemorySink) -> None:
        super().__init__()
        self._sink = sink

    def latest(self) -> MemorySink:
        return self._sink

    def samples(self) -> MemorySink:
        return self._sink

    def history(self) -> None:
        return None

    def events(self) -> EventStore:
        return self._sink.events


@pytest.fixture
def listener(sink: MemorySink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr("tests.api.access.View", lambda: _Full(sink))
    # what the others ask for meanwhile has long been answered by then, on any machine
    monkeypatch.setattr(http_server, "_GRACE_S", 1.0)
    monkeypatch.setattr(routes, "PIECE_S", 4.0)
    monkeypatch.setattr(events, "READER_S", 6.0)
    with listening(HttpConfig(request_timeout_s=12.0), tmp_path) as found:
        yield found


@contextlib.contextmanager
def idlers(listener: Listener, request: str) -> Iterator[list[socket.socket]]:
    """Clients that have asked and take nothing."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(120)
            client.connect(listener.address)
            client.sendall(f"{request} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            found.append(client)
        yield found


def received(client: socket.socket) -> bytes:
    """All that there is up to the reset or the end."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(("path", "least"), [("/metrics", 2 << 20), (LONG, 4 << 20)])
def test_who_asks_for_a_long_answer_and_does_not_take_it(listener: Listener, path: str, least: int) -> None:
    status, whole = get(listener, path)
    assert (status, len(whole) > least) == (200, True)
    before = psutil.Process().memory_info().rss
    with idlers(listener, f"GET {path}") as clients:
        eventually(lambda: listener.guard._now >= CLIENTS, 60, "they are not served")
        for other in ("/healthz", "/api/v1.3/machine", "/api/v1.3/containers/c5"):
            assert get(listener, other)[0] in (200, 503), other
        assert get(listener, path)[1].partition(b"\r\n\r\n")[2][:1] == whole.partition(b"\r\n\r\n")[2][:1]
        held = psutil.Process().memory_info().rss - before
        assert held < CLIENTS * len(whole) / 2 + (64 << 20), "each of them has a copy of the answer"
        eventually(lambda: listener.guard._now == 0, 120, "they are not let go")
        for client in clients:
            assert len(received(client)) < len(whole)
    assert get(listener, path)[0] == 200


@pytest.mark.parametrize(
    "path", ["/api/v1/events?stream=true", "/api/v1.3/events?stream=true&all_events=true&subcontainers=true"]
)
def test_who_follows_events_and_does_not_take_them(listener: Listener, sink: MemorySink, path: str) -> None:
    def tell() -> None:
        sink.write([Event(START_MS, "creation", None, {"path": "/" + "x" * 2000}, row=next(_rows)) for _ in range(200)])

    with idlers(listener, f"GET {path}"), _following(listener, path) as lines:
        eventually(lambda: listener.guard._now >= CLIENTS + 1, 60, "they are not served")

        def is_let_go() -> bool:
            tell()
            return listener.guard._now <= 1

        eventually(is_let_go, 120, "they are not let go")
        seen = len(lines)
        tell()
        eventually(lambda: len(lines) > seen, 60, "who reads is served no more")


@contextlib.contextmanager
def _following(listener: Listener, path: str) -> Iterator[list[bytes]]:
    """One that takes what comes; the lines, to which more are added."""
    lines: list[bytes] = []
    client = listener.connect()
    client.settimeout(120)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def take() -> None:
        with contextlib.suppress(OSError):
            while part := client.recv(1 << 20):
                lines.append(part)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield lines
    finally:
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        thread.join(60)
        client.close()


def test_who_takes_a_long_answer_slowly_has_all_of_it(listener: Listener) -> None:
    _, whole = get(listener, LONG)
    with listener.connect() as client:
        client.settimeout(120)
        client.sendall(f"GET {LONG} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        parts: list[bytes] = []
        pause: Callable[[float], Any] = threading.Event().wait
        while part := client.recv(1 << 16):
            parts.append(part)
            if len(parts) % 20 == 0:
                pause(0.02)
    assert b"".join(parts).endswith(b"0\r\n\r\n")
    assert sum(map(len, parts)) > len(whole) * 0.9
