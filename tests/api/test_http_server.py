"""The listener with clients that mean no good: real sockets, a real server thread."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from tidegauge.api import http_server
from tidegauge.api.guard import Guard, is_local_socket
from tidegauge.api.http_server import HttpServer
from tidegauge.pipeline.config import HttpConfig


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def _local(request: Request) -> PlainTextResponse:
    _LOCAL.append(is_local_socket(request.scope))
    return PlainTextResponse("heard")


_LOCAL: list[bool] = []


async def _big(request: Request) -> StreamingResponse:
    async def body() -> Any:
        for _ in range(2000):
            yield b"x" * 65536

    return StreamingResponse(body())


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(http_server, "HEADER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(http_server, "_GRACE_S", 0.1)
    config = HttpConfig(request_timeout_s=0.5, max_connections=50)
    app = Guard(Starlette(routes=[Route("/", _hello), Route("/big", _big), Route("/local", _local)]), config, ["here"])
    server = HttpServer(app, config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


def _ask(address: tuple[str, int], text: str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") -> bytes:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(text.encode("latin-1"))
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def _is_closed(client: socket.socket) -> bool:
    client.settimeout(10)
    try:
        while client.recv(65536):
            continue
    except ConnectionResetError:
        pass
    return True


def test_an_answer_carries_the_headers_that_protect_a_browser(address: tuple[str, int]) -> None:
    text = _ask(address).lower()
    assert text.startswith(b"http/1.1 200 ok")
    for header in (
        b"content-security-policy: default-src 'none'",
        b"x-content-type-options: nosniff",
        b"cache-control: no-store",
    ):
        assert header in text


def test_a_client_that_says_nothing_or_half_a_request_is_let_go(address: tuple[str, int]) -> None:
    for start in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: loc"):
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(start)
            assert _is_closed(client)
    assert _ask(address).endswith(b"hello")


def test_a_second_request_that_is_never_finished_is_let_go_too(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while b"hello" not in answer:
            answer += client.recv(65536)
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert _is_closed(client)


def test_a_client_that_never_reads_is_let_go(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.1)
        assert _ask(address).endswith(b"hello"), "another client is served meanwhile"
        threading.Event().wait(0.8)
        assert _is_closed(client)


@pytest.mark.parametrize(
    "text",
    [
        "GET / HTTP/1.1\r\n\r\n",
        "nonsense\r\n\r\n",
        "GET /" + "y" * 9000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "y" * 70000 + "\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n",
    ],
)
def test_a_malformed_or_oversized_request_is_refused_and_the_next_one_served(address: tuple[str, int], text: str) -> None:
    try:
        answer = _ask(address, text)
    except ConnectionResetError:
        answer = b""
    assert not answer or answer.split()[1][:1] == b"4", answer[:200]
    assert _ask(address).endswith(b"hello")


def test_idle_connections_do_not_keep_others_out(address: tuple[str, int]) -> None:
    idle = [socket.create_connection(address, timeout=10) for _ in range(120)]
    try:
        answers = []
        for _ in range(100):
            answers.append(_ask(address))
            if answers[-1].endswith(b"hello"):
                break
            threading.Event().wait(0.05)
        assert answers[-1].endswith(b"hello")
        assert all(a.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")) for a in answers)
    finally:
        for client in idle:
            client.close()


def test_a_client_that_resets_its_connection_is_not_taken_for_a_local_one(address: tuple[str, int]) -> None:
    """A connection that was reset has no peer's address, as one over the Unix socket has none."""
    _LOCAL.clear()
    for host in ("evil.example", "localhost"):
        for _ in range(50):
            client = socket.create_connection(address, timeout=10)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(f"GET /local HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            client.close()
    for _ in range(100):  # more connections than are taken at a time: some are refused at first
        if _ask(address, "GET /local HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").endswith(b"heard"):
            break
        threading.Event().wait(0.05)
    assert _LOCAL
    assert not any(_LOCAL)
