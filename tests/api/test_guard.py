"""What never reaches a route."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tidegauge.api.guard import IS_LOCAL_SOCKET, Guard, host_name
from tidegauge.pipeline.config import HttpConfig


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await PlainTextResponse(f"ok {len(body)}")(scope, receive, send)


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


def _request(
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
    config: HttpConfig,
    headers: dict[str, str],
    *,
    method: str = "GET",
    is_local: bool = False,
    body: tuple[bytes, ...] = (b"",),
) -> int:
    guard = Guard(app, config, ["web1"])
    scope = {
        "type": "http",
        "method": method,
        "path": "/",
        "client": None,
        "state": {IS_LOCAL_SOCKET: is_local},
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }
    parts = list(body)
    status: list[int] = []

    async def receive() -> dict[str, Any]:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    asyncio.run(guard(scope, receive, send))
    return status[0]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:4194", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:4194", 200),
        ("[::1]:4194", 200),
        ("web1:4194", 200),
        ("web1.", 200),
        ("metrics.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("localhost@evil.example", 403),
        ("localhost/evil", 403),
        ("", 403),
        ("[::1", 403),
    ],
)
def test_a_name_that_is_not_ours_is_refused(host: str, status: int) -> None:
    assert _request(_echo, HttpConfig(allowed_hosts=("metrics.example",)), {"Host": host}) == status


def test_a_request_without_host_is_refused_and_one_over_the_socket_is_not() -> None:
    assert _request(_echo, HttpConfig(), {}) == 403
    assert _request(_echo, HttpConfig(), {}, is_local=True) == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:4194", 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://localhost:1", 403),
        ("http://[", 403),
    ],
)
def test_a_foreign_origin_is_refused(origin: str, status: int) -> None:
    assert _request(_echo, HttpConfig(), {"Host": "localhost:4194", "Origin": origin}, method="POST") == status


def test_a_body_beyond_the_limit_is_refused_whether_announced_or_not() -> None:
    config = HttpConfig(max_body_bytes=10)
    host = {"Host": "localhost"}
    assert _request(_echo, config, host | {"Content-Length": "11"}, method="POST") == 413
    assert _request(_echo, config, host | {"Content-Length": "x"}, method="POST") == 413
    assert _request(_echo, config, host, method="POST", body=(b"123456", b"123456")) == 413
    assert _request(_echo, config, host, method="POST", body=(b"12345", b"12345")) == 200


def test_methods_with_other_meanings_are_refused() -> None:
    for method in ("PUT", "DELETE", "TRACE", "CONNECT", "OPTIONS"):
        assert _request(_echo, HttpConfig(), {"Host": "localhost"}, method=method) == 405


def test_an_answer_that_takes_too_long_is_ended() -> None:
    assert _request(_never, HttpConfig(request_timeout_s=0.01), {"Host": "localhost"}) == 503


def test_more_requests_at_a_time_than_allowed_are_refused() -> None:
    guard = Guard(_never, HttpConfig(max_requests=1, request_timeout_s=0.05), ["web1"])
    scope = {"type": "http", "method": "GET", "path": "/", "state": {IS_LOCAL_SOCKET: True}, "headers": []}
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def both() -> None:
        await asyncio.gather(guard(dict(scope), receive, send), guard(dict(scope), receive, send))

    asyncio.run(both())
    assert sorted(statuses) == [503, 503]
    assert guard.refused["busy"] == 1
    assert guard.refused["timeout"] == 1


@pytest.mark.parametrize(
    ("header", "name"), [("a:1", "a"), ("[::1]:2", "::1"), ("a?b", ""), ("a#b", ""), ("u@a", ""), ("a:1:2", ""), ("a:b", "")]
)
def test_host_name_of_a_header(header: str, name: str) -> None:
    assert host_name(header) == name


def test_what_the_server_does_not_call_local_is_not() -> None:
    assert _request(_echo, HttpConfig(), {"Host": "evil.example"}) == 403


def test_requests_that_have_ended_do_not_count_as_under_way() -> None:
    guard = Guard(_echo, HttpConfig(max_requests=2), ["web1"])
    scope = {"type": "http", "method": "GET", "path": "/", "state": {IS_LOCAL_SOCKET: True}, "headers": []}
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    for _ in range(5):
        asyncio.run(guard(dict(scope), receive, send))
    assert statuses == [200] * 5


@pytest.mark.parametrize(
    ("path", "seen"),
    [("/a/b/metrics", "/metrics"), ("/a/b", "/"), ("/a/b/", "/"), ("/metrics", "/metrics"), ("/a/bmetrics", "/a/bmetrics")],
)
def test_the_prefix_under_which_a_proxy_shows_the_listener_is_taken_off(path: str, seen: str) -> None:
    paths: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await PlainTextResponse("ok")(scope, receive, send)

    guard = Guard(app, HttpConfig(url_base_prefix="/a/b"), ["here"])
    scope = {"type": "http", "method": "GET", "path": path, "state": {IS_LOCAL_SOCKET: True}, "headers": []}

    async def send(message: Any) -> None: ...

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(guard(scope, receive, send))
    assert paths == [seen]
